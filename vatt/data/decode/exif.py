"""The orientation that EXIF gives a .png, .webp or .tiff: FFmpeg 8.0 tells that of .jpg alone (8.1: of all of them)."""

from __future__ import annotations

from pathlib import Path

from av.video.frame import VideoFrame

from vatt.data.decode.view import UPSIDE_DOWN, Filter, chain, pull

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


def as_exif_says(frame: VideoFrame, path: Path) -> VideoFrame:
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
