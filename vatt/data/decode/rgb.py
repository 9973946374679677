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
from av.video.frame import VideoFrame

from vatt.data.decode.view import (
    Colours,
    Encoding,
    View,
    chain,
    is_yuv,
    mean_luma,
    plane,
    pull,
    to_yuv420,
    upright,
)

_TOGETHER = 4  # frames that are recoloured at once: fewer calls, and still in the cache of a core


class RgbFrames:
    """Writes frames, as a view sees them, into uint8 (T, S, S, 3).

    The crop shifts pointers in the decoded planes; nothing is converted that is not kept.
    """

    def __init__(self, view: View, out_TSS3: np.ndarray) -> None:
        self.view, self.out_TSS3, self.size = view, out_TSS3, out_TSS3.shape[1]
        self._mean: float | None = None  # of the first frame
        self._key: tuple[object, ...] | None = None
        self._graph: Graph | None = None
        self._recolour: _Recolour | None = None
        self._places: list[tuple[int, int]] = []  # of the frames that wait in it

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        """Makes it the frames from ``first`` to ``last``, exclusive."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if key != self._key or self._graph is None:
            self.finish()
            self._build(frame)
            self._key = key
        assert self._graph is not None
        self._graph.push(frame)
        small = pull(self._graph)
        if self._recolour is None:
            self._put(_pixels(small, self.size), first, last)
            return
        self._recolour.take(small, len(self._places))
        self._places.append((first, last))
        if len(self._places) == _TOGETHER:
            self.finish()

    def finish(self) -> None:
        """Writes the frames that wait for others."""
        if self._places and self._recolour is not None:
            made = self._recolour.made(len(self._places))
            for number, (first, last) in enumerate(self._places):
                self._put(made[number], first, last)
        self._places = []

    def _put(self, picture_SS3: np.ndarray, first: int, last: int) -> None:
        self.out_TSS3[first] = picture_SS3
        self.out_TSS3[first + 1 : last] = self.out_TSS3[first]

    def _build(self, frame: VideoFrame) -> None:
        filters, height, width = upright(frame)
        box = self.view.box(height, width).even()
        filters.append(("crop", f"{box.width}:{box.height}:{box.left}:{box.top}"))
        if self._mean is None:
            self._mean = mean_luma(frame)
        colours, encoding = self.view.colours(self._mean), Encoding.of(frame)
        if colours is not None:
            self._graph = chain(frame, filters + to_yuv420(frame, self.size, self.size))
            self._recolour = _Recolour(self.size, colours, encoding, self.view.flip)
            return
        scale = f"{self.size}:{self.size}:flags=bilinear"
        if is_yuv(frame):  # planar RGB is what swscale scales to exactly
            filters += [("scale", f"{scale}:{_from_encoding(encoding)}"), ("format", "gbrp")]
        else:
            filters.append(("scale", scale))
        self._graph = chain(frame, [*filters, *[("hflip", "")] * self.view.flip, ("format", "rgb24")])


def _from_encoding(encoding: Encoding) -> str:
    return f"in_range={encoding.range}:in_color_matrix={encoding.matrix}"


def _pixels(frame: VideoFrame, size: int) -> np.ndarray:
    """uint8 (rows, S, 3), a view of the memory of a frame of RGB."""
    part: Any = frame.planes[0]
    return np.frombuffer(part, np.uint8).reshape(-1, part.line_size)[:, : 3 * size].reshape(-1, size, 3)


class _Recolour:
    """From small frames in YUV 4:2:0 to RGB with other colours: some frames, one above the other, as one tall frame.

    Luma goes through a table of 256 bytes, chroma through one of 256 x 256 pairs. FFmpeg's `hue` would do the latter as
    well, but takes 1 to 2 ms to get ready, for each clip.
    """

    def __init__(self, size: int, colours: Colours, encoding: Encoding, flip: bool) -> None:
        self.size = size
        gain, offset = encoding.luma(colours.gain, colours.offset)
        self.luma = np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8).tobytes()
        self.chroma = _chroma_table(colours)
        self.tall = _tall(size, encoding, flip)
        half = (size + 1) // 2
        self.small = np.empty((_TOGETHER, size, size), np.uint8), np.empty((2, _TOGETHER, half, half), np.uint8)

    def take(self, frame: VideoFrame, number: int) -> None:
        """Puts a frame in the place ``number``."""
        part: Any = frame.planes[0]
        luma = np.frombuffer(bytes(part).translate(self.luma), np.uint8).reshape(-1, part.line_size)
        self.small[0][number] = luma[: self.size, : self.size]
        for which in (0, 1):
            self.small[1][which, number] = plane(frame, which + 1)

    def made(self, count: int) -> np.ndarray:
        """The first ``count`` frames, uint8 (count, S, S, 3), until the next call."""
        luma, chroma = self.small[0][:count], self.small[1][:, :count]
        at = chroma[0].astype(np.uint16)
        at <<= 8
        at |= chroma[1]
        np.take(self.chroma, at, out=at, mode="clip")  # no index is outside, which then is not looked for
        return self.tall.to_rgb(luma, at.view(np.uint8).reshape(*at.shape, 2))


class _Tall:
    """Frames of S x S, one above the other, from YUV 4:2:0 to RGB in one conversion."""

    def __init__(self, size: int, encoding: Encoding, flip: bool) -> None:
        self.size, self.rows = size, size + size % 2  # of a frame
        self.frame = VideoFrame(size, self.rows * _TOGETHER, "yuv420p")
        shapes = ((self.rows, size), *[(self.rows // 2, (size + 1) // 2)] * 2)
        self.planes = [plane(self.frame, number).reshape(_TOGETHER, *shape) for number, shape in enumerate(shapes)]
        filters = [("hflip", "")] * flip + [("scale", _from_encoding(encoding)), ("format", "rgb24")]
        self.graph = chain(self.frame, filters)

    def to_rgb(self, luma_NSS: np.ndarray, chroma_NHH2: np.ndarray) -> np.ndarray:
        """uint8 (N, S, S, 3), until the next call."""
        count = len(luma_NSS)
        self.planes[0][:count, : self.size] = luma_NSS
        for which in (0, 1):
            self.planes[which + 1][:count] = chroma_NHH2[..., which]
        self.graph.push(self.frame)
        rows = _pixels(pull(self.graph), self.size)[: count * self.rows]
        return rows.reshape(count, self.rows, self.size, 3)[:, : self.size]


_KEPT = threading.local()  # a graph is for one thread


def _tall(size: int, encoding: Encoding, flip: bool) -> _Tall:
    """The kept one of this thread: making it, and giving its memory back, takes as long as a tenth of a window."""
    known = _KEPT.__dict__.setdefault("known", {})
    key = size, encoding, flip
    if key not in known:
        known[key] = _Tall(*key)
    return known[key]


_CENTRED = np.arange(256, dtype=np.float32) - 128


def _chroma_table(colours: Colours) -> np.ndarray:
    """For each U * 256 + V the new pair, two bytes in one number: uint16 (65536,)."""
    cos, sin = colours.chroma * math.cos(colours.hue), colours.chroma * math.sin(colours.hue)
    pairs = np.empty((256, 256, 2), np.float32)
    pairs[..., 0] = (cos * _CENTRED)[:, None] - (sin * _CENTRED)[None]
    pairs[..., 1] = (sin * _CENTRED)[:, None] + (cos * _CENTRED)[None]
    pairs += 128.5  # and cut: rounds
    return np.clip(pairs, 0, 255, out=pairs).astype(np.uint8).view(np.uint16).reshape(-1)
