"""Pictures: a picture file held for a whole clip.

Shapes: T frames, S side of the square picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vatt.clip import InputConfig
from vatt.data.decode.container import Media, MediaError, open_media
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.view import FrameWriter, View


def decode_picture(media: Media, view: View, spec: InputConfig) -> np.ndarray:
    """A picture as a clip in which nothing moves: uint8 (T, S, S, 3) (paper, section 4.2.3).

    Raises:
        MediaError: no regular file, or not a picture that can be decoded.
    """
    out_TSS3 = np.empty((spec.frames, spec.size, spec.size, 3), np.uint8)
    write_picture(media, [RgbFrames(view, out_TSS3)], spec)
    return out_TSS3


def write_picture(media: Media, writers: Sequence[FrameWriter], spec: InputConfig) -> None:
    """Gives a picture to ``writers``, as all T frames of a clip.

    Raises:
        MediaError: as `decode_picture`.
    """
    part = media if isinstance(media, Path) else media.piece(0.0, 0.0)
    name = part if isinstance(part, Path) else part.name
    with open_media(part, "image", broken="image") as container:
        if not container.streams.video:
            raise MediaError(name, "image", "the file has no picture")
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise MediaError(name, "image", "no picture could be decoded")
        for writer in writers:
            writer.write(frame, 0, spec.frames)
            writer.finish()
