"""What the first bytes of a file tell before it is decoded: the size of a picture, whether it is text, or cut short.

FFmpeg tells neither the size of a picture that it refuses nor that a GIF or QOI ends too early.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import BinaryIO


def declared_size(head: bytes) -> tuple[int, int] | None:
    """Width and height by the beginning of a GIF, PNG, BMP, WebP, QOI, JPEG or AVI; None: another, or not there."""
    try:
        if head[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack_from("<HH", head, 6)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", head, 16)
        if head[:2] == b"BM" and head[14:18] not in (b"\x0c\0\0\0", b""):
            width, height = struct.unpack_from("<ii", head, 18)
            return abs(width), abs(height)
        if head[:4] == b"qoif":
            return struct.unpack_from(">II", head, 4)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(head)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI " and (at := head.find(b"strf", head.find(b"vids"))) > 0:
            width, height = struct.unpack_from("<ii", head, at + 12)
            return abs(width), abs(height)
    except struct.error:  # shorter than its header
        pass
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Of the first frame header (SOF), behind other segments."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, (length,) = head[at + 1], struct.unpack_from(">H", head, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + length
    return None


def is_text(head: bytes) -> bool:
    """Whether it is words, as far as can be seen: UTF-8 or UTF-16 without control characters but those of lines."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    text = head[:1024].decode("utf-8", "replace")
    return bool(text) and sum(c.isprintable() or c in "\t\n\r\f" for c in text) > 0.95 * len(text)


def is_whole(file: BinaryIO, head: bytes, size: int) -> bool:
    """Whether the first picture of a GIF, and a QOI, reach their ends; True for other formats."""
    if head[:4] == b"qoif":
        file.seek(max(0, size - 8))
        return file.read(8) == bytes(7) + b"\1"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        file.seek(0)
        return _gif_has_a_picture(io.BytesIO(file.read(size)))
    return True


def lacks_end(file: BinaryIO) -> bool:
    """Whether a JPEG, PNG, WebP or BMP is shorter than it says, or has no end: words for one that does not decode."""
    with suppress(OSError):
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(32)
        file.seek(max(0, size - 1024))
        tail = file.read(1024)
        if head[:3] == b"\xff\xd8\xff":
            return b"\xff\xd9" not in tail
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return b"IEND" not in tail
        if head[:4] == b"RIFF":
            return int.from_bytes(head[4:8], "little") + 8 > size
        if head[:2] == b"BM":
            return int.from_bytes(head[2:6], "little") > size
    return False


def _gif_has_a_picture(gif: io.BytesIO) -> bool:
    """Whether a picture comes, all of whose blocks are there up to the empty one that ends them."""
    flags = gif.read(13)[10:11]
    if not flags:
        return False
    gif.seek(_table(flags[0]), io.SEEK_CUR)
    while kind := gif.read(1):
        if kind == b";":  # the end: FFmpeg tells that there is no picture
            return True
        if kind == b"!":
            gif.seek(1, io.SEEK_CUR)
        elif kind == b",":
            descriptor = gif.read(9)
            if len(descriptor) < 9:
                return False
            gif.seek(_table(descriptor[8]) + 1, io.SEEK_CUR)
        else:
            return True  # nothing that this knows; FFmpeg decides
        while (count := gif.read(1)) and count[0]:
            gif.seek(count[0], io.SEEK_CUR)
        if not count:
            return False
        if kind == b",":
            return True
    return False


def _table(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
