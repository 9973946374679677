"""Frames as the decoder leaves them, for `vatt.kernels.frames_to_patches`: crop, scale and colours are left to the GPU.

Shapes: T frames, C bytes of a frame, S side of the picture that is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from vatt.data.decode.view import Encoding, View, chain, mean_luma, plane, pull, to_yuv420, upright

_AREA = 2.4  # of S x S: the largest picture that is kept as it is; a larger crop is shrunk
_DIRECT = ("yuv420p", "yuvj420p")  # formats whose planes are copied as they are


def planes_capacity(size: int) -> int:
    """Bytes C that a sample keeps for each frame of a clip whose pictures are ``size`` x ``size``."""
    return 128 * math.ceil(1.5 * _AREA * size**2 / 128)


def frame_bytes(height: int, width: int) -> int:
    """Of a picture in 8-bit YUV 4:2:0."""
    return height * width + 2 * math.ceil(height / 2) * math.ceil(width / 2)


class PlaneFrames:
    """Writes the crop of each frame as Y, U and V, one after another without padding, and what is left to do.

    Args:
        size: S.
        out: arrays that are filled: "planes" uint8 (T, C), whose rest is left as it is; "sizes" int32 (2,), height and
            width; "crop" float32 (4,), top, left, height and width in them; "flip" uint8 (); "colour" float32 (3, 4),
            RGB in 0 to 255 from (Y, U, V, 1), of the matrix and range of the source and the view's change of colours.

    Only the crop is copied, at even pixels. One that does not fit into C is shrunk first, by FFmpeg, bilinear; other
    formats than 8-bit 4:2:0 are converted to it (RGB by BT.601), and pictures that lie on their side are turned.
    """

    def __init__(self, view: View, size: int, out: Mapping[str, np.ndarray]) -> None:
        self.view, self.size, self.out = view, size, out
        self._key: tuple[object, ...] | None = None
        self._graph: Graph | None = None  # None: the planes are copied as they are
        self._corner = 0, 0
        self._shape: tuple[int, int] | None = None  # of all frames of the clip, as the first one has it

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        """Makes it the frames from ``first`` to ``last``, exclusive."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if key != self._key:
            self._build(frame)
            self._key = key
        if self._graph is not None:
            self._graph.push(frame)
            frame = pull(self._graph)
        assert self._shape is not None
        height, width = self._shape
        (top, left), begin = self._corner, 0
        row_C = self.out["planes"][first]
        for number in range(3):
            if number == 1:
                top, left, height, width = top // 2, left // 2, math.ceil(height / 2), math.ceil(width / 2)
            end = begin + height * width
            row_C[begin:end].reshape(height, width)[:] = plane(frame, number)[top : top + height, left : left + width]
            begin = end
        for other in range(first + 1, last):
            self.out["planes"][other, :begin] = row_C[:begin]

    def finish(self) -> None:
        """Nothing waits."""

    def _build(self, frame: VideoFrame) -> None:
        filters, height, width = upright(frame)
        box = self.view.box(height, width).even()
        if self._shape is None:
            self._shape = self._fitting(box.height, box.width)
            self._describe(frame)
        if not filters and frame.format.name in _DIRECT and self._shape == (box.height, box.width):
            self._graph, self._corner = None, (box.top, box.left)
            return
        filters.append(("crop", f"{box.width}:{box.height}:{box.left}:{box.top}"))
        self._graph, self._corner = chain(frame, filters + to_yuv420(frame, *self._shape)), (0, 0)

    def _fitting(self, height: int, width: int) -> tuple[int, int]:
        """The largest shape like this one whose planes fit into C."""
        capacity, shrink = self.out["planes"].shape[1], 1.0
        shape = height, width
        while frame_bytes(*shape) > capacity:
            shrink *= min(0.999, math.sqrt(capacity / frame_bytes(*shape)))
            shape = max(2, int(height * shrink) & ~1), max(2, int(width * shrink) & ~1)
        return shape

    def _describe(self, frame: VideoFrame) -> None:
        assert self._shape is not None
        self.out["sizes"][:] = self._shape
        self.out["crop"][:] = 0, 0, *self._shape
        self.out["flip"][...] = self.view.flip
        self.out["colour"][:] = Encoding.of(frame).to_rgb(self.view.colours(mean_luma(frame)))
