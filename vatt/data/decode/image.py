"""Pictures: one frame as a view sees it, and a picture file held for a whole clip.

Shapes: T frames, S side of the square picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.container import Media, MediaError, open_media

Filter = tuple[str, str]  # name and arguments of an FFmpeg filter


@dataclass(frozen=True)
class Box:
    """A part of the picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class View(Protocol):
    """A crop and a change of colours: one choice for all frames of a clip."""

    def box(self, height: int, width: int) -> Box:
        """The part of the picture to keep."""
        ...

    def filters(self, mean_luma: float) -> list[Filter]:
        """What is done to the scaled picture; ``mean_luma`` (0 to 1) is that of the first frame."""
        ...


class Scaler:
    """Rotates, crops, scales and recolours frames in one filter chain of FFmpeg, rebuilt when their format changes.

    The crop shifts pointers in the decoded planes; nothing is converted that is not kept.
    """

    def __init__(self, view: View, size: int) -> None:
        self.view, self.size = view, size
        self.filters: list[Filter] | None = None
        self.key: tuple[int, int, str] | None = None
        self.graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """The frame as the view sees it, uint8 (S, S, 3)."""
        key = (frame.width, frame.height, frame.format.name)
        if key != self.key or self.graph is None:
            self.graph, self.key = self._build(frame), key
        self.graph.push(frame)
        return self.graph.pull().to_ndarray()

    def _build(self, frame: VideoFrame) -> Graph:
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # quarter turns, counterclockwise
        height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        box = self.view.box(height, width)
        if self.filters is None:
            small = frame.reformat(width=32, height=32, format="gray")
            self.filters = self.view.filters(float(small.to_ndarray().mean()) / 255)
        graph = Graph()
        graph.threads = 1  # its slices are too small to share; waking threads costs six times the scaling
        chain = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        ]
        for name in {0: [], 1: ["cclock"], 2: ["clock", "clock"], 3: ["clock"]}[turns]:
            chain.append(graph.add("transpose", name))
        chain.append(graph.add("crop", f"{box.width}:{box.height}:{box.left}:{box.top}"))
        chain.append(graph.add("scale", f"{self.size}:{self.size}:flags=bilinear"))
        chain += [graph.add(name, arguments) for name, arguments in self.filters]
        chain.append(graph.add("format", "rgb24"))
        chain.append(graph.add("buffersink"))
        for first, second in pairwise(chain):
            first.link_to(second)
        graph.configure()
        return graph


def decode_picture(media: Media, view: View, spec: InputConfig, out_TSS3: np.ndarray | None = None) -> np.ndarray:
    """A picture as a clip in which nothing moves: uint8 (T, S, S, 3) (paper, section 4.2.3), in ``out_TSS3`` if given.

    Raises:
        MediaError: no regular file, or not a picture that can be decoded.
    """
    part = media if isinstance(media, Path) else media.piece(0.0, 0.0)
    name = media if isinstance(media, Path) else part.name
    with open_media(part, "image", broken="image") as container:
        if not container.streams.video:
            raise MediaError(name, "image", "the file has no picture")
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise MediaError(name, "image", "no picture could be decoded")
        picture = Scaler(view, spec.size)(frame)
    if out_TSS3 is None:
        return np.repeat(picture[None], spec.frames, axis=0)
    out_TSS3[:] = picture
    return out_TSS3
