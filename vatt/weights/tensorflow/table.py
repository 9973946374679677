"""The sorted table of a checkpoint's ``.index`` file (LevelDB's table format, as TensorFlow writes it).

From the end: a footer of 48 bytes (handle of a meta index, handle of the index block, padding, magic number); the
index block, whose values are the handles (offset, size) of the data blocks; the data blocks. A block is a run of
(shared bytes of the previous key, new bytes of the key, bytes of the value), then its restart points, and is followed
by one byte of compression and its masked CRC-32C. Source: leveldb/doc/table_format.md, tensorflow/tsl/lib/io/table.

The values are protocol buffers, whose wire format is here too: numbers of variable length (`varint`), and messages as
pairs of field number and value (`fields`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vatt.config import show
from vatt.errors import UserError
from vatt.json_files import JSONError, read_bounded
from vatt.weights.tensorflow.crc32c import crc32c, unmask

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48
MOST_BYTES, LONGEST_KEY = 64 * 2**20, 4096  # of an index: those of the largest model have 200 kB, and keys of 200 bytes
TRAILER = 5
_COMPRESSIONS = {1: "snappy", 2: "zlib", 4: "zstd"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class TensorFlowError(UserError, ValueError):
    """A checkpoint that cannot be used. The message names the file (and the variable) and what is wrong with it."""


def read_table(path: Path) -> dict[bytes, bytes]:
    """All keys and values of the table, in their order.

    Raises:
        TensorFlowError: no such file, not a table, cut off, damaged, or compressed.
    """
    try:
        data = read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise TensorFlowError(f"{path}: cannot be read: {error.strerror}") from error
    except JSONError as error:
        raise TensorFlowError(str(error)) from error
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise TensorFlowError(
            f"{path}: is not the index of a TensorFlow 2 checkpoint (wrong magic number), or is cut off"
        )
    try:
        return dict(_entries(data))
    except ValueError as error:
        raise TensorFlowError(f"{path}: the index is unreadable: {error}") from error


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = data[-FOOTER:]
    meta, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    list(_block(data, meta))  # TensorFlow leaves it empty; it is only checked
    end, last = 0, None
    for _, handle in _block(data, index):
        at, size = place = _handle(handle, 0)[0]
        if at < end:
            raise ValueError(f"the block at byte {at} lies in the one before, or comes twice")
        end = at + size + TRAILER
        for key, value in _block(data, place):
            if last is not None and key <= last:
                raise ValueError(f"key {show(key)} is not in order")
            last = key
            yield key, value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block, and where the handle ends."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block, after its checksum was verified."""
    offset, size = handle
    end = offset + size
    if end + TRAILER > len(data) - FOOTER or size < 4:
        raise ValueError(f"a block of {size} bytes at {offset} does not fit into the {len(data)} bytes of the file")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    if crc32c(data[offset : end + 1]) != unmask(stored):
        raise ValueError(f"the checksum of the block at byte {offset} is wrong; the file is damaged")
    if data[end]:
        name = _COMPRESSIONS.get(data[end], f"kind {data[end]}")
        raise ValueError(f"its blocks are compressed ({name}); TensorFlow writes checkpoints without compression")
    return _keys_and_values(data[offset:end])


def _keys_and_values(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("a block with more restart points than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        new, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + new + size > end:
            raise ValueError("an entry that does not fit into its block")
        if shared + new > LONGEST_KEY:
            raise ValueError(f"a key of {shared + new} bytes")
        key = key[:shared] + block[at : at + new]
        at += new
        yield key, block[at : at + size]
        at += size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, seven bits per byte, lowest first; and where it ends.

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
