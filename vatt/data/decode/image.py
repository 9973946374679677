"""Pictures: a picture file held for a whole clip, turned as its EXIF says.

FFmpeg 8.0 tells the orientation of a .jpg alone; that of .png, .webp and .tiff is read here (8.1 tells all of them).

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
from vatt.data.decode.opening import MediaError, TimeLimit, open_media
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.view import UPSIDE_DOWN, Filter, FrameWriter, View, chain, pull

_ORIENTATION = 0x112  # tag of EXIF
_MOST = 1 << 26  # bytes of a file that are looked through
_FILTERS: dict[int, list[Filter]] = {
    2: [("hflip", "")],
    3: [("hflip", ""), *UPSIDE_DOWN],
    4: UPSIDE_DOWN,
    5: [("transpose", "cclock_flip")],
    6: [("transpose", "clock")],
    7: [("transpose", "clock_flip")],
    8: [("transpose", "cclock")],
}


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
    return _as_exif_says(frame, name) if isinstance(name, Path) else frame


def _as_exif_says(frame: VideoFrame, path: Path) -> VideoFrame:
    """The picture of a file turned and mirrored by its EXIF, unless FFmpeg has found that itself."""
    filters = _FILTERS.get(_orientation(path)) if frame.side_data.get("DISPLAYMATRIX") is None else None
    if filters is None:
        return frame
    graph = chain(frame, filters)
    graph.push(frame)
    return pull(graph)


def _orientation(path: Path) -> int:
    """1 to 8 as EXIF counts them; 0 where a file of these kinds does not say."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _in_tiff(head + file.read(_MOST))
        png, webp = head[:8] == b"\x89PNG\r\n\x1a\n", head[:4] + head[8:] == b"RIFFWEBP"
        file.seek(8 if png else 12)
        while (png or webp) and len(part := file.read(8)) == 8:
            name, size = (part[4:], part[:4]) if png else (part[:4], part[4:])
            length = int.from_bytes(size, "big" if png else "little")
            if name in (b"eXIf", b"EXIF"):
                return _in_tiff(file.read(min(length, _MOST)).removeprefix(b"Exif\0\0"))
            file.seek(length + (4 if png else length % 2), 1)  # the checksum, or what makes the length even
    return 0


def _in_tiff(content: bytes) -> int:
    order = "little" if content[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], order)  # type: ignore[arg-type]

    at = number(4, 4)
    entries = (at + 2 + 12 * entry for entry in range(number(at, 2)))
    return next((number(entry + 8, 2) for entry in entries if number(entry, 2) == _ORIENTATION), 0)
