"""What a view of a picture is: a crop, a flip and a change of colours; and how a frame's colours are encoded.

Y, U and V are the bytes of a frame (0 to 255), RGB is 0 to 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

TIME_BASE = Fraction(1, 1000)  # of graphs, which must have one; no filter here looks at times
Filter = tuple[str, str]  # name and arguments of an FFmpeg filter
UPSIDE_DOWN: list[Filter] = [("vflip", ""), ("copy", "")]  # alone, it would leave rows that go backwards in memory

# By FFmpeg's number of a colour space: its name there, and what U adds to blue and V to red at full range. Numbers
# that are not here, and frames that do not say, count as BT.601, as in FFmpeg.
_MATRICES = {
    1: ("bt709", 1.8556, 1.5748),
    4: ("fcc", 1.78, 1.4),
    7: ("smpte240m", 1.826, 1.576),
    9: ("bt2020", 1.8814, 1.4746),
    10: ("bt2020", 1.8814, 1.4746),
}
_BT601 = ("bt601", 1.772, 1.402)
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
# What U and V take from green, at full range; not from the luma weights, but as swscale has them.
_GREEN = {
    "bt601": (0.344136, 0.714136),
    "bt709": (0.187324, 0.468124),
    "fcc": (0.331864, 0.711864),
    "smpte240m": (0.226622, 0.476622),
    "bt2020": (0.164553, 0.571353),
}


@dataclass(frozen=True)
class Box:
    """A part of the picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def even(self) -> Box:
        """Its corner and sizes rounded down to even pixels, where chroma has samples; at least 2 x 2 if it was."""
        height, width = (max(side & ~1, min(side, 2)) for side in (self.height, self.width))
        return Box(self.top & ~1, self.left & ~1, height, width)


@dataclass(frozen=True)
class Colours:
    """A change of colours: one affine map of luma (0 black to 1 white) and chroma (-0.5 to 0.5).

    luma' = gain * luma + offset; chroma' is chroma, as a vector (U, V), turned by ``hue`` (radians), times ``chroma``.
    """

    gain: float = 1.0
    offset: float = 0.0
    chroma: float = 1.0
    hue: float = 0.0


class FrameWriter(Protocol):
    """Where the frames of one window go."""

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        """Makes a decoded frame the frames from ``first`` to ``last``, exclusive, of the window."""
        ...

    def finish(self) -> None:
        """All frames have been written."""
        ...


class View(Protocol):
    """A crop, a flip and a change of colours: one choice for all frames of a clip."""

    flip: bool

    def box(self, height: int, width: int) -> Box:
        """The part of the picture to keep. It is then rounded to even pixels, see `Box.even`."""
        ...

    def colours(self, mean_luma: float) -> Colours | None:
        """What is done to the colours, if anything; ``mean_luma`` (0 to 1) is that of the first frame."""
        ...


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a planar YUV picture encode colours: the matrix, by FFmpeg's name, and the range."""

    matrix: str = "bt601"
    full: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Encoding:
        """That of a frame, or, for one that is not YUV, of what `to_yuv420` makes of it."""
        name = frame.format.name
        if not is_yuv(frame):
            return cls(full=name.startswith("gray"))
        matrix = _MATRICES.get(int(frame.colorspace), _BT601)[0]
        return cls(matrix, int(frame.color_range) == _FULL_RANGE or name.startswith("yuvj"))

    @property
    def range(self) -> str:
        """FFmpeg's name of the range."""
        return "full" if self.full else "limited"

    def luma(self, gain: float, offset: float) -> tuple[float, float]:
        """Factor and summand of the byte Y for a map of luma from 0 to 1."""
        black, steps = (0, 255) if self.full else (16, 219)
        return gain, black * (1 - gain) + steps * offset

    def to_rgb(self, colours: Colours | None) -> np.ndarray:
        """float64 (3, 4): RGB = it @ (Y, U, V, 1), with the change of colours; unclipped, unrounded."""
        blue, red = next((m[1:] for m in (*_MATRICES.values(), _BT601) if m[0] == self.matrix), _BT601[1:])
        from_u, from_v = _GREEN[self.matrix]
        black, luma, chroma = (0, 1.0, 1.0) if self.full else (16, 255 / 219, 255 / 224)
        plain = np.array(
            [[luma, 0, red * chroma], [luma, -from_u * chroma, -from_v * chroma], [luma, blue * chroma, 0]]
        )
        colours = colours or Colours()
        gain, offset = self.luma(colours.gain, colours.offset)
        cos, sin = colours.chroma * math.cos(colours.hue), colours.chroma * math.sin(colours.hue)
        change = np.array([[gain, 0, 0], [0, cos, -sin], [0, sin, cos]])
        origin = np.array([black, 128, 128])
        moved = np.array([gain * black + offset, 128, 128])  # where the origin goes
        matrix = plain @ change
        return np.concatenate([matrix, (plain @ (moved - origin) - matrix @ origin)[:, None]], axis=1)


def is_yuv(frame: VideoFrame) -> bool:
    """Whether the picture is in YUV: neither RGB nor grey nor a palette."""
    form = frame.format
    return len(form.components) >= 3 and not (form.is_rgb or form.is_bayer or form.has_palette)


def to_yuv420(frame: VideoFrame, height: int, width: int) -> list[Filter]:
    """Filters that scale to 8-bit planar 4:2:0 of the frame's own matrix and range; of RGB to BT.601, limited range.

    One pass of swscale, bilinear: when it shrinks, the support of its triangle grows with the ratio.
    """
    encoding = Encoding.of(frame)
    ranges = f"out_range={encoding.range}" + (f":in_range={encoding.range}" if is_yuv(frame) else "")
    matrix = f":in_color_matrix={encoding.matrix}" if is_yuv(frame) else ""
    scale = f"{width}:{height}:flags=bilinear:{ranges}{matrix}:out_color_matrix={encoding.matrix}"
    return [("scale", scale), ("format", "yuv420p")]


def mean_luma(frame: VideoFrame) -> float:
    """Of the whole picture, 0 (black) to 1 (white), from every so many pixels."""
    encoding, form = Encoding.of(frame), frame.format
    if not (form.is_planar and is_yuv(frame) and form.components[0].bits == 8):
        graph = chain(frame, to_yuv420(frame, 32, 32))
        graph.push(frame)
        frame = pull(graph)
    step = max(1, min(frame.height, frame.width) // 32)
    gain, offset = encoding.luma(1.0, 0.0) if encoding.full else (255 / 219, -16 * 255 / 219)
    mean = gain * float(plane(frame, 0)[::step, ::step].mean()) + offset
    return min(max(mean / 255, 0.0), 1.0)


def plane(frame: VideoFrame, number: int) -> np.ndarray:
    """One plane of an 8-bit planar frame, uint8 (height, width), without its padding; a view of its memory."""
    part: Any = frame.planes[number]  # a buffer, which PyAV's stubs do not say
    return np.frombuffer(part, np.uint8).reshape(-1, part.line_size)[: part.height, : part.width]


def upright(frame: VideoFrame) -> tuple[list[Filter], int, int]:
    """Filters that turn and mirror the picture as its display matrix says; height and width after them.

    A matrix that is no multiple of a quarter turn counts as the next one.
    """
    filters: list[Filter] = []
    height, width = frame.height, frame.width
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            filters = [("hflip", "")] * (a < 0) + UPSIDE_DOWN * (d < 0)
        else:
            names = {(True, False): "clock", (False, True): "cclock", (True, True): "cclock_flip"}
            filters = [("transpose", names.get((b > 0, c > 0), "clock_flip"))]
            height, width = width, height
    return filters, height, width


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether its display matrix mirrors the picture, turned or not."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False
    a, b, _, c, d = (float(x) for x in np.frombuffer(bytes(data), np.int32)[:5])
    return a * d - b * c < 0


def chain(frame: VideoFrame, filters: list[Filter]) -> Graph:
    """A graph of filters, one after another, for frames like ``frame``."""
    graph = Graph()
    graph.threads = 1  # its slices are too small to share; waking threads costs six times the scaling
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=TIME_BASE)
    for name, arguments in [*filters, ("buffersink", "")]:
        following = graph.add(name, arguments or None)
        last.link_to(following)
        last = following
    graph.configure()
    return graph


def pull(graph: Graph) -> VideoFrame:
    """The frame that a graph of pictures gives."""
    frame = graph.pull()
    assert isinstance(frame, VideoFrame)
    return frame
