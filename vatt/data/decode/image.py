"""Pictures: a picture file held for a whole clip.

Shapes: T frames, S side of the square picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from av.container.input import InputContainer
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.container import Media
from vatt.data.decode.exif import as_exif_says
from vatt.data.decode.opening import MediaError, TimeLimit, open_media
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.view import FrameWriter, View


def decode_picture(media: Media, view: View, spec: InputConfig, timeout: float = 30.0) -> np.ndarray:
    """A picture as a clip in which nothing moves: uint8 (T, S, S, 3) (paper, section 4.2.3).

    Raises:
        MediaError: no regular file, not a picture that can be decoded, too large, cut short, or the time limit.
    """
    out_TSS3 = np.empty((spec.frames, spec.size, spec.size, 3), np.uint8)
    write_picture(media, [RgbFrames(view, out_TSS3)], spec, timeout)
    return out_TSS3


def write_picture(media: Media, writers: Sequence[FrameWriter], spec: InputConfig, timeout: float = 30.0) -> None:
    """Gives a picture to ``writers``, as all T frames of a clip.

    Raises:
        MediaError: as `decode_picture`.
    """
    part = media if isinstance(media, Path) else media.piece(0.0, 0.0)
    name = part if isinstance(part, Path) else part.name
    with open_media(part, "image", broken="image", limit=TimeLimit(name, timeout)) as container:
        frame = first_frame(container, name)
        for writer in writers:
            writer.write(frame, 0, spec.frames)
            writer.finish()


def first_frame(container: InputContainer, name: Path | str) -> VideoFrame:
    """The picture of an open file. Raises MediaError: it has none, or none that decodes."""
    if not container.streams.video:
        raise MediaError(name, "image", "the file has no picture")
    frame = next(container.decode(video=0), None)
    if frame is None or frame.is_corrupt:
        raise MediaError(name, "image", "no picture could be decoded")
    return as_exif_says(frame, name) if isinstance(name, Path) else frame
