"""A TensorFlow 2 checkpoint ("tensor bundle"): PREFIX.index and PREFIX.data-0000i-of-0000n.

The index maps each key to a `BundleEntryProto` (type, shape, shard, offset, size, checksum), and the empty key to a
`BundleHeaderProto` (number of shards, byte order). Source: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vatt.config import show
from vatt.json_files import read_bounded
from vatt.weights.tensorflow.crc32c import crc32c, unmask
from vatt.weights.tensorflow.table import TensorFlowError, fields, read_table

# tensorflow/core/framework/types.proto: number -> name, and the type in the file. Strings have no fixed size.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("float32", "<f4"),
    2: ("float64", "<f8"),
    3: ("int32", "<i4"),
    4: ("uint8", "u1"),
    5: ("int16", "<i2"),
    6: ("int8", "i1"),
    7: ("string", ""),
    9: ("int64", "<i8"),
    10: ("bool", "?"),
    14: ("bfloat16", "<u2"),
    17: ("uint16", "<u2"),
    19: ("float16", "<f2"),
    22: ("uint32", "<u4"),
    23: ("uint64", "<u8"),
}
MOST_SHARDS, MOST_DIMENSIONS = 10_000, 16
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Entry:
    """Where an array lies: ``size`` bytes from ``offset`` in the file of ``shard``; ``crc`` is the masked checksum."""

    type: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0


class Bundle:
    """The arrays of a checkpoint, by key. Only the index is read at first; `read` reads one array.

    Args:
        prefix: of the checkpoint's files (``run/ckpt-500000``), or one of the files, or a folder with TensorFlow's
            ``checkpoint`` file, whose latest is taken.

    Raises:
        TensorFlowError: no checkpoint, an unreadable index, a shard that is missing or shorter than the index says.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = _prefix(Path(prefix))
        self.index = self.prefix.with_name(self.prefix.name + ".index")
        table = read_table(self.index)
        try:
            self.shards = _header(table.pop(b"", b""))
            self._entries = {key.decode(): _entry(value) for key, value in table.items()}
        except ValueError as error:
            raise TensorFlowError(f"{self.index}: {error}") from error
        self._check_shards()

    def keys(self) -> list[str]:
        """All keys, sorted: variables, optimizer slots, counters and the object graph."""
        return sorted(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an array, in TensorFlow's layout. Raises TensorFlowError: no such key."""
        return self.entry(key).shape

    def dtype(self, key: str) -> str:
        """TensorFlow's name of the type: "float32", "string", ..."""
        number = self.entry(key).type
        return _TYPES[number][0] if number in _TYPES else f"type {number}"

    def files(self) -> list[Path]:
        """The index and all data files."""
        return [self.index, *(self.data_file(shard) for shard in range(self.shards))]

    def data_file(self, shard: int) -> Path:
        """The path of a shard's data."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")

    def read(self, key: str) -> np.ndarray:
        """The array of a key, checked against its checksum; bfloat16 comes as float32 of the same values.

        Raises:
            TensorFlowError: no such key, not numbers, or damaged; the message names the file and the key.
        """
        entry = self.entry(key)
        path = self.data_file(entry.shard)
        name, kind = _TYPES.get(entry.type, (f"type {entry.type}", ""))
        if not kind:
            raise TensorFlowError(f"{self.index}: {key} holds {name}, not numbers that can be read")
        count, item = math.prod(entry.shape), np.dtype(kind).itemsize
        if entry.size != count * item:
            raise TensorFlowError(
                f"{self.index}: {key} has {entry.size} bytes, but shape {entry.shape} of {name} needs {count * item}"
            )
        try:
            array = np.fromfile(path, kind, count, offset=entry.offset)
        except OSError as error:
            raise TensorFlowError(f"{path}: cannot be read: {error}") from error
        if array.size != count:
            raise TensorFlowError(f"{path}: {key} needs {count} values, but the file ends after {array.size}")
        if crc32c(array) != unmask(entry.crc):
            raise TensorFlowError(f"{path}: the checksum of {key} is wrong; the file is damaged, fetch it again")
        if name == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(entry.shape)

    def entry(self, key: str) -> Entry:
        """Where the array of a key lies. Raises TensorFlowError: no such key."""
        if key not in self._entries:
            raise TensorFlowError(f"{self.index}: holds no {key}")
        return self._entries[key]

    def _check_shards(self) -> None:
        ends: dict[int, int] = {}
        for entry in self._entries.values():
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)
        for shard in range(self.shards):
            path, needed = self.data_file(shard), ends.get(shard, 0)
            if not path.is_file():
                raise TensorFlowError(f"{path}: no such file; the checkpoint has {self.shards} data file(s)")
            found = path.stat().st_size
            if found < needed:
                raise TensorFlowError(f"{path}: is cut off: the index needs {needed} bytes, the file has {found}")
        beyond = [key for key, entry in self._entries.items() if entry.shard >= self.shards]
        if beyond:
            raise TensorFlowError(f"{self.index}: {beyond[0]} lies in a shard beyond the {self.shards} that there are")


def _prefix(path: Path) -> Path:
    """The prefix meant by a prefix, one of its files, or a folder. Raises TensorFlowError."""
    if path.is_dir():
        return _latest(path)
    prefix = path.with_name(_DATA.sub("", path.name).removesuffix(".index"))
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise TensorFlowError(
            f"{prefix}.index: no such file; give PREFIX of PREFIX.index and PREFIX.data-00000-of-00001, or a folder "
            "with a file named checkpoint"
        )
    return prefix


def _latest(folder: Path) -> Path:
    state = folder / "checkpoint"
    try:
        text = read_bounded(state, 2**20).decode("utf-8")
    except (OSError, ValueError) as error:
        raise TensorFlowError(f"{state}: cannot be read ({error}); give the prefix of the checkpoint") from error
    found = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if not found:
        raise TensorFlowError(f"{state}: has no line model_checkpoint_path; give the prefix of the checkpoint")
    path = folder / found[1]  # an absolute path stays as it is
    if not path.with_name(path.name + ".index").is_file():
        path = folder / path.name  # it was moved here since it was written
    return _prefix(path)


def _header(data: bytes) -> int:
    """The number of shards."""
    values = dict(fields(data))
    if values.get(2, 0) != 0:
        raise ValueError("the checkpoint was written on a big-endian machine, which is not supported")
    shards = _number(values.get(1, 0))
    if shards < 1:
        raise ValueError("has no header; it is not the index of a checkpoint")
    if shards > MOST_SHARDS:
        raise ValueError(f"says that there are {shards:,} data files; at most {MOST_SHARDS:,}")
    return shards


def _entry(data: bytes) -> Entry:
    names = {1: "type", 3: "shard", 4: "offset", 5: "size", 6: "crc"}
    values: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    for number, value in fields(data):
        if number == 2:
            shape = tuple(_dimensions(fields(_message(value))))
            if len(shape) > MOST_DIMENSIONS or any(size >= 2**48 for size in shape):
                raise ValueError(f"an array of the shape {show(shape)}")
        elif number == 7:
            raise ValueError("a variable is stored in slices (partitioned), which is not supported")
        elif number in names:
            values[names[number]] = _number(value)
    return Entry(shape=shape, **values)


def _dimensions(shape: Iterable[tuple[int, int | bytes]]) -> Iterable[int]:
    """The sizes in a `TensorShapeProto`; a dimension of size 0 leaves its field out."""
    for number, value in shape:
        if number == 2:
            yield _number(dict(fields(_message(value))).get(1, 0))


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("an entry of unknown layout")
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("an entry of unknown layout")
    return value
