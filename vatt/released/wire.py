"""The wire format of protocol buffers: numbers of variable length, and messages as (field number, value) pairs."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, seven bits a byte, lowest first; and where it ends.

    Raises:
        ValueError: the data end inside it, or it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the data end inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: numbers as int (unsigned), strings and messages as bytes.

    Raises:
        ValueError: not a message.
    """
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = varint(data, at)
        elif kind == _BYTES:
            size, at = varint(data, at)
            value, at = _take(data, at, size)
        elif kind in (_FIXED32, _FIXED64):
            raw, at = _take(data, at, 4 if kind == _FIXED32 else 8)
            value = int.from_bytes(raw, "little")
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        yield tag >> 3, value


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise ValueError("the data end inside a field")
    return data[at : at + size], at + size
