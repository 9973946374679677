"""Frames to RGB on the CPU, by FFmpeg's filters: turned upright, cropped, scaled, recoloured, flipped.

Without a change of colours, one pass of swscale makes RGB of the crop, within 1 of 255 of what `frames_to_patches`
computes on a GPU. With one, it is the fast way that differs: the picture is scaled in YUV 4:2:0, where colours are
changed, too, by tables; only then it becomes RGB. Chroma has half the resolution of the result there, each sample
standing for 2 x 2 pixels; every step rounds to 8 bits and clips (chroma that is made stronger clips before it meets
luma); and swscale's fast conversion to RGB rounds down. On average that is 1.5 to 2.5 of 255, of which 1 to 1.5 darker.

Shapes: T frames, S side of the square picture.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from vatt.data.decode.view import (
    TIME_BASE,
    Colours,
    Encoding,
    Filter,
    View,
    chain,
    is_yuv,
    mean_luma,
    pull,
    to_yuv420,
    upright,
)


class RgbFrames:
    """Writes frames, as a view sees them, into uint8 (T, S, S, 3).

    The crop shifts pointers in the decoded planes; nothing is converted that is not kept.
    """

    def __init__(self, view: View, out_TSS3: np.ndarray) -> None:
        self.view, self.out_TSS3, self.size = view, out_TSS3, out_TSS3.shape[1]
        self._mean: float | None = None  # of the first frame
        self._key: tuple[object, ...] | None = None
        self._head: Graph | None = None
        self._tail: _Tail | None = None
        self._colours: Colours | None = None
        self._table = b""

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        """Makes it the frames from ``first`` to ``last``, exclusive."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if key != self._key or self._head is None:
            self._build(frame)
            self._key = key
        assert self._head is not None
        self._head.push(frame)
        small = pull(self._head)
        if self._colours is not None and self._tail is not None:
            luma: Any = small.planes[0]  # of a new frame, not the decoder's
            luma.update(bytes(luma).translate(self._table))
            small = self._tail(small, self._colours)
        pixels: Any = small.planes[0]
        pixels = np.frombuffer(pixels, np.uint8).reshape(self.size, pixels.line_size)[:, : 3 * self.size]
        self.out_TSS3[first] = pixels.reshape(self.size, self.size, 3)
        self.out_TSS3[first + 1 : last] = self.out_TSS3[first]

    def _build(self, frame: VideoFrame) -> None:
        filters, height, width = upright(frame)
        box = self.view.box(height, width).even()
        filters.append(("crop", f"{box.width}:{box.height}:{box.left}:{box.top}"))
        if self._mean is None:
            self._mean = mean_luma(frame)
        colours, encoding = self.view.colours(self._mean), Encoding.of(frame)
        self._colours = colours
        if colours is not None:
            if box.height == box.width == self.size:  # scaling would hand on the memory of the decoder
                filters.append(("copy", ""))
            self._head = chain(frame, filters + to_yuv420(frame, self.size, self.size))
            gain, offset = encoding.luma(colours.gain, colours.offset)
            self._table = np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8).tobytes()
            self._tail = _tail(self.size, encoding, self.view.flip)
            return
        scale = f"{self.size}:{self.size}:flags=bilinear"
        if is_yuv(frame):  # planar RGB is what swscale scales to exactly
            filters += [("scale", f"{scale}:{_from_encoding(encoding)}"), ("format", "gbrp")]
        else:
            filters.append(("scale", scale))
        self._head = chain(frame, [*filters, *[("hflip", "")] * self.view.flip, ("format", "rgb24")])


def _from_encoding(encoding: Encoding) -> str:
    return f"in_range={encoding.range}:in_color_matrix={encoding.matrix}"


class _Tail:
    """The last filters, for chroma, flip and RGB. Making the filter `hue` costs 2 ms, as much as scaling a clip does;
    so it is kept, and told new values."""

    def __init__(self, size: int, encoding: Encoding, flip: bool) -> None:
        self.given: Colours | None = None
        self.graph = graph = Graph()
        graph.threads = 1
        start = graph.add_buffer(width=size, height=size, format=VideoFormat("yuv420p"), time_base=TIME_BASE)
        self.hue = last = graph.add("hue", "h=0:s=1")
        start.link_to(self.hue)
        rest: list[Filter] = [("hflip", "")] * flip
        for name, arguments in [*rest, ("scale", _from_encoding(encoding)), ("format", "rgb24"), ("buffersink", "")]:
            following = graph.add(name, arguments or None)
            last.link_to(following)
            last = following
        graph.configure()

    def __call__(self, frame: VideoFrame, colours: Colours) -> VideoFrame:
        if colours is not self.given:
            self.hue.process_command("h", f"{math.degrees(colours.hue):.4f}")
            self.hue.process_command("s", f"{colours.chroma:.5f}")
            self.given = colours
        self.graph.push(frame)
        return pull(self.graph)


_KEPT = threading.local()  # a graph is for one thread


def _tail(size: int, encoding: Encoding, flip: bool) -> _Tail:
    """The kept one of this thread."""
    tails = _KEPT.__dict__.setdefault("tails", {})
    key = size, encoding, flip
    if key not in tails:
        tails[key] = _Tail(*key)
    return tails[key]
