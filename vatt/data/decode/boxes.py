"""Numbers that an MP4 or QuickTime file claims and that cannot be, before FFmpeg makes an index of them.

A table of samples of one size is a number, from which FFmpeg makes an entry for each: a file of 50 kB can ask for 6 GB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

MOST_SAMPLES = 1 << 24  # of a track that has an entry for each: 77 hours at 60 frames a second, 400 MB
_BOXES = 10_000  # that are looked at; a long film in fragments has more, and is one
_OUTER = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_BLOCK = 4096  # samples of a byte, more than any codec has: compressed sound of QuickTime counts what it decodes to
_TABLE = 1 << 20  # bytes of a table that are looked at
_ISO = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp")


class Bytes(Protocol):
    """What is read of a file."""

    def read(self, size: int) -> bytes: ...

    def seek(self, offset: int, whence: int = 0) -> int: ...


def impossible(file: Bytes, head: bytes, size: int) -> str:
    """What a track says that cannot be, in a file of ``size`` bytes which begins with ``head``, in words. Empty if
    there is nothing, and in another format.

    - Its samples would have less than their bytes, or their index would fill the memory.
    - A second has no ticks, or 2**31 and more: FFmpeg takes 1 then, and all times are wrong.
    """
    if head[4:8] not in _ISO:
        return ""
    constant = each = run = chunks = 0  # samples of one size in the track, bytes of each; most of a chunk, chunks
    ticks = 1
    single = False  # whether all samples last one tick, as in PCM: then an entry stands for a block of them
    for kind, content in _boxes(file, size):
        try:
            if kind == b"trak":
                constant, each, run, chunks, ticks, single = 0, 0, 0, 0, 1, False
            elif kind == b"mdhd":
                (ticks,) = struct.unpack_from(">I", content, 20 if content[:1] == b"\1" else 12)  # 1: dates of 64 bits
            elif kind == b"stts":
                single = struct.unpack_from(">I4xI", content, 4) == (1, 1)
            elif kind == b"stsz":
                each, constant = struct.unpack_from(">II", content, 4)
                constant = constant if each else 0
            elif kind == b"stsc":
                table = content[8 : len(content) - (len(content) - 8) % 12]
                run = max((samples for _, samples, _ in struct.iter_unpack(">III", table)), default=0)
            elif kind in (b"stco", b"co64"):
                (chunks,) = struct.unpack_from(">I", content, 4)
            elif kind == b"trun":
                flags, count = struct.unpack_from(">II", content)
                if not flags & 0xF00 and count > min(size, MOST_SAMPLES):
                    return _too_many(count)
        except struct.error:  # shorter than it must be: FFmpeg will say so
            continue
        if kind == b"hdlr" and content[8:12] in (b"vide", b"soun") and not 0 < ticks < 1 << 31:
            return f"has a track of {ticks:,} ticks a second, so that no time in it is known"
        if kind in (b"stsz", b"stco", b"co64"):
            if single and run * chunks > _BLOCK * size:
                return _too_many(run * chunks)
            if not single and (constant * each > size or constant > MOST_SAMPLES):
                return _too_many(constant)
    return ""


def _too_many(samples: int) -> str:
    return f"claims to have {samples:,} samples in a track, more than can be"


def _boxes(file: Bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Names of the boxes in their order, those inside others behind them; and the content of the tables of samples."""
    places, seen = [(0, size)], 0
    while places and seen < _BOXES:
        at, end = places.pop()
        if at + 8 > end:
            continue
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            continue
        length, kind = struct.unpack_from(">I4s", head)
        begin = at + 8
        if length == 1 and len(head) == 16:
            (length,), begin = struct.unpack_from(">Q", head, 8), at + 16
        length = length or end - at
        if length < begin - at:
            continue
        seen += 1
        last = min(end, at + length)
        places.append((at + length, end))
        if kind in _OUTER:
            places.append((begin, last))
        content = b""
        if kind in (b"stts", b"stsz", b"trun", b"stsc", b"stco", b"co64", b"mdhd", b"hdlr"):
            file.seek(begin)
            content = file.read(min(last - begin, _TABLE if kind == b"stsc" else 32))
        yield kind, content
