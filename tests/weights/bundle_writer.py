"""Writes checkpoints in TensorFlow's bundle format, several shards and all, for the tests of its reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vatt.weights.tensorflow.crc32c import crc32c, mask

NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
BFLOAT16, STRING = 14, 7
RESTART = 4  # entries between restart points


def number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(index: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return number(index << 3 | 2) + number(len(value)) + value
    return number(index << 3) + number(value) if value else b""


def entry(array: np.ndarray, kind: int, shard: int, offset: int, extra: bytes = b"") -> bytes:
    dims = b"".join(field(2, field(1, size)) for size in array.shape)
    crc = number(6 << 3 | 5) + struct.pack("<I", mask(crc32c(array.tobytes())))
    parts = (field(1, kind), field(2, dims), field(3, shard), field(4, offset), field(5, array.nbytes), crc)
    return b"".join(parts) + extra


def block(items: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    data, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % RESTART == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        data += number(shared) + number(len(key) - shared) + number(len(value)) + key[shared:] + value
        last = key
    body = bytes(data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + bytes([compression])
    return body + struct.pack("<I", mask(crc32c(body)))


def table(items: Mapping[bytes, bytes], per_block: int = 8, compression: int = 0) -> bytes:
    data, handles = b"", []
    ordered = sorted(items.items())
    for start in range(0, len(ordered), per_block):
        some = ordered[start : start + per_block]
        made = block(some, compression)
        handles.append((some[-1][0], number(len(data)) + number(len(made) - 5)))
        data += made
    footer = b""
    for made in (block([]), block(handles)):
        footer += number(len(data)) + number(len(made) - 5)
        data += made
    return data + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def write_bundle(
    prefix: Path,
    arrays: Mapping[str, np.ndarray],
    shards: int = 1,
    kinds: Mapping[str, int] | None = None,
    extra: Mapping[str, bytes] | None = None,
    compression: int = 0,
) -> None:
    """Keys go to the shards in turns. ``kinds``: type numbers that differ from NumPy's; ``extra``: of an entry."""
    items = {b"": field(1, shards) + field(3, field(1, 1))}
    data = [bytearray() for _ in range(shards)]
    for i, (key, array) in enumerate(sorted(arrays.items())):
        kind = (kinds or {}).get(key) or NUMBERS[array.dtype.name]
        shard = i % shards
        items[key.encode()] = entry(array, kind, shard, len(data[shard]), (extra or {}).get(key, b""))
        data[shard] += array.tobytes()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(items, compression=compression))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
