"""A data set of shards: its index in columns, and clips that are built from it when they are asked for.

A million clips take some 50 MB, which forked processes share: numbers that say where the line of each source lies. A
clip costs the reading of that line of shard-*.jsonl, about 20 microseconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from vatt.data.clips import Clip, Clips, ClipTable, ManifestError
from vatt.data.decode import MediaError, Packing
from vatt.data.shards.cache import CacheError, PieceCache, default_folder
from vatt.data.shards.columns import KINDS, Columns, read_columns
from vatt.data.shards.fetch import Fetcher, Part, fetch
from vatt.data.shards.format import FAULTS, INDEX, Index, Shard, ShardError, read_index
from vatt.data.shards.lines import PieceLine, RowLine, SourceLine, read_sources
from vatt.data.shards.piece_file import PieceFile
from vatt.data.shards.storage import LocalFolder, Storage, Unavailable, is_url, open_storage
from vatt.files import write_bytes
from vatt.json_files import parse_json, read_json

CACHE_GB = 20.0  # most gigabytes of remote pieces that are kept on the local disk
_GIGABYTE = 10**9
_AT_START = 120.0  # seconds for one file of the index
MOST_INDEX = 256 * 2**20  # bytes of an index; a shard has 300
_REQUESTS = 8  # of them at a time


def is_shards(place: str | Path) -> bool:
    """Whether it is a URL, or a folder with an index.json of shards."""
    if is_url(str(place)):
        return True
    try:
        content = read_json(Path(place) / INDEX, most=MOST_INDEX, surrogates=True)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "shards" in content


def read_shards(
    place: str | Path, *, cache: str | Path | None = None, cache_gb: float = CACHE_GB, timeout: float = 30.0
) -> Clips:
    """The clips of a folder or URL of shards, in the order of the manifest that was packed; what could not be packed is
    among the skipped.

    Args:
        cache: folder for pieces of remote shards; None for that of the user.
        cache_gb: its bound, in gigabytes; 0 keeps none.
        timeout: seconds for one piece of a remote shard, with all attempts.

    Raises:
        ManifestError: no index, a shard that is missing or has another size than the index says, or a line that cannot
            be read. CacheError: a cache that cannot be made.
    """
    name = str(place).rstrip("/") or "/"
    try:
        storage = open_storage(name)
        limit = int(cache_gb * _GIGABYTE) if storage.remote else 0
        kept = PieceCache(Path(cache).expanduser() if cache else default_folder(), limit)
        text = _at_start(storage, INDEX)
        index = read_index(text, f"{name}/{INDEX}")
        skipped = _faults(storage, index, name)
        if isinstance(storage, LocalFolder):
            lines = storage
        else:
            lines = _lines_of_remote(storage, index, kept.folder / "lines" / hashlib.sha256(text).hexdigest()[:32])
        columns = read_columns(index, lines, name, _other_sizes(storage, index))
    except Unavailable as error:
        raise ManifestError(f"{name}: {error.reason}") from error
    except ShardError as error:
        raise ManifestError(str(error)) from error
    if not len(columns.source_N):
        raise ManifestError(f"{name}: holds no clip" + (f"; {len(skipped)} could not be packed" if skipped else ""))
    return Clips(ShardClips(ShardSet(storage, lines, index, kept, timeout), columns), skipped)


class PackedPiece:
    """See `vatt.data.decode.Piece`."""

    __slots__ = ("_line", "_set", "_shard", "begins", "seconds")

    def __init__(self, shards: ShardSet, shard: int, line: PieceLine) -> None:
        self._set, self._shard, self._line = shards, shard, line
        self.begins, self.seconds = line.begins, line.seconds

    @property
    def name(self) -> str:
        """Shard and member."""
        return f"{self._set.name_of(self._shard)}: {self._line.name}"

    def open(self) -> BinaryIO:
        """Its bytes. Raises MediaError: they cannot be had."""
        return self._set.open(self._shard, self._line, self.name)

    def expect(self) -> None:
        """It will be opened soon: begins to fetch it, and returns at once."""
        self._set.expect(self._shard, self._line)


class PackedSource:
    """See `vatt.data.decode.Packed`."""

    __slots__ = ("_set", "_shard", "line")

    def __init__(self, shards: ShardSet, shard: int, line: SourceLine) -> None:
        self._set, self._shard, self.line = shards, shard, line

    @property
    def name(self) -> str:
        """Shard and source."""
        return f"{self._set.name_of(self._shard)}: {self.line.source}"

    @property
    def duration(self) -> float:
        return self.line.duration

    @property
    def sound(self) -> float | None:
        return self.line.sound

    @property
    def packing(self) -> Packing:
        return self._set.packing

    @property
    def digest(self) -> str:
        """SHA-256 of its pieces' SHA-256."""
        return hashlib.sha256("".join(piece.sha256 for piece in self.line.pieces).encode()).hexdigest()

    def piece(self, start: float, seconds: float) -> PackedPiece:
        """See `vatt.data.decode.Packed`."""
        line = self.line.piece(start, seconds)
        if line is None:
            raise MediaError(self.name, "pieces", f"none holds {seconds:g} s from {start:g} s on")
        return PackedPiece(self._set, self._shard, line)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedSource) and self.line == other.line and self.name == other.name

    __hash__ = None  # type: ignore[assignment]


class ShardSet:
    """Where the bytes of a data set of shards are. Small when it is sent to another process."""

    def __init__(self, storage: Storage, lines: LocalFolder, index: Index, cache: PieceCache, timeout: float) -> None:
        self.storage, self.lines, self.index = storage, lines, index
        settings = index.settings
        self.packing = Packing(storage.name, settings.size, settings.fps, settings.window)
        self._fetcher = Fetcher(storage, cache, timeout)

    def name_of(self, shard: int) -> str:
        """A shard, for messages."""
        return f"{self.storage.name}/{self.index.shards[shard].file}"

    def source_line(self, shard: int, offset: int, size: int) -> SourceLine:
        """A line of shard-*.jsonl."""
        file = self.index.shards[shard].lines
        try:
            (line,) = read_sources([self.lines.read(file, offset, size)], f"{self.lines.path(file)}, byte {offset}")
        except (Unavailable, ShardError) as error:  # it was right when the job began
            raise MediaError(f"{self.storage.name}/{file}", "index", str(error)) from error
        return line

    def open(self, shard: int, line: PieceLine, name: str) -> BinaryIO:
        """The bytes of a piece, of a local shard as they are asked for. Raises MediaError, also while reading."""

        file = self.index.shards[shard].file
        try:
            if not isinstance(self.storage, LocalFolder):
                return self._fetcher.open(Part(file, line.offset, line.size, line.sha256), name)
            self.storage.check(file)
            read = self.storage.read
            content = PieceFile(lambda at, size: read(file, line.offset + at, size), line.size, name)
            return cast(BinaryIO, content)
        except Unavailable as error:
            raise MediaError(name, "shard", error.reason) from error

    def expect(self, shard: int, line: PieceLine) -> None:
        """Begins to fetch a piece."""
        file = self.index.shards[shard].file
        if isinstance(self.storage, LocalFolder):
            self.storage.expect(file, line.offset, line.size)
        else:
            self._fetcher.expect(Part(file, line.offset, line.size, line.sha256))


class ShardClips(ClipTable):
    """The clips of a data set of shards, or some of them."""

    def __init__(self, shards: ShardSet, columns: Columns, numbers_N: np.ndarray | None = None) -> None:
        self._set, self._columns = shards, columns
        self._numbers_N = np.arange(len(columns.source_N), dtype=np.int32) if numbers_N is None else numbers_N
        self._last: tuple[int, Path, PackedSource] | None = None

    def __len__(self) -> int:
        return len(self._numbers_N)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}

    def clip(self, number: int) -> Clip:
        """Raises MediaError: its line cannot be read any more."""
        row = int(self._numbers_N[number])
        source = int(self._columns.source_N[row])
        last = self._last
        if last is None or last[0] != source:  # rows of one source mostly follow each other
            shard, offset, size = (
                int(column[source]) for column in (self._columns.shard_S, self._columns.offset_S, self._columns.size_S)
            )
            packed = PackedSource(self._set, shard, self._set.source_line(shard, offset, size))
            self._last = last = (source, Path(self._set.storage.name, packed.line.source), packed)
        return _clip(last[1], last[2], last[2].line.rows[int(self._columns.row_N[row])])

    def part(self, numbers: Sequence[int] | np.ndarray) -> ShardClips:
        return ShardClips(self._set, self._columns, self._numbers_N[np.asarray(numbers, np.int64)])

    def is_there(self) -> bool:
        """See `ClipTable`; of remote shards, requests say it."""
        storage = self._set.storage
        return not isinstance(storage, LocalFolder) or os.path.exists(storage.path(INDEX))

    def splits(self) -> list[str | None]:
        names = self._columns.names
        return [names[code] for code in self._columns.split_N[self._numbers_N].tolist()]

    def digests(self) -> np.ndarray:
        return self._columns.digest_S[self._columns.source_N[self._numbers_N]]

    def groups(self) -> np.ndarray:
        return self._columns.shard_S[self._columns.source_N[self._numbers_N]]

    def kinds(self) -> list[str]:
        codes_N = self._columns.kind_S[self._columns.source_N[self._numbers_N]]
        return [KINDS[code] for code in codes_N.tolist()]

    def captioned(self) -> int:
        return int(self._columns.captioned_N[self._numbers_N].sum())

    @property
    def packing(self) -> Packing:
        return self._set.packing


def _clip(video: Path, packed: PackedSource, row: RowLine) -> Clip:
    captions = packed.line.captions_of(row)
    kind, name = packed.line.kind, packed.line.source
    place = f"row {row.number + 1}"
    return Clip(video, row.start, row.end, captions, row.label, row.split, row.extra, kind, packed, name, place)


def _at_start(storage: Storage, file: str, size: int | None = None, sha256: str | None = None) -> bytes:
    """A whole file of the index. Raises Unavailable, naming it."""
    try:
        found = fetch(storage, file, 0, None, sha256, _AT_START)
    except Unavailable as error:
        raise Unavailable(f"{file}: {error.reason}") from error
    if size is not None and len(found) != size:
        raise Unavailable(f"{file}: {len(found)} bytes came, the index says {size}")
    return found


def _faults(storage: Storage, index: Index, name: str) -> list[dict[str, Any]]:
    """The records of what could not be packed."""
    if not index.faults:
        return []
    lines = enumerate(_at_start(storage, FAULTS).splitlines(), start=1)
    found = [parse_json(line, f"{name}/{FAULTS}, line {n}", surrogates=True) for n, line in lines if line.strip()]
    return [record for record in found if isinstance(record, dict) and {"file", "field", "reason"} <= record.keys()]


def _other_sizes(storage: Storage, index: Index) -> dict[int, int]:
    """Bytes of the local shards that differ from the index, by number: cut off, or changed.

    Those of remote shards would cost a request each; a piece that is not there is noticed when it is fetched.
    """
    found = {}
    if isinstance(storage, LocalFolder):
        for number, shard in enumerate(index.shards):
            try:
                size = storage.size(shard.file)
            except Unavailable as error:
                raise Unavailable(f"{shard.file}: {error.reason}, though {INDEX} names it") from error
            if size != shard.bytes:
                found[number] = size
    return found


def _lines_of_remote(storage: Storage, index: Index, folder: Path) -> LocalFolder:
    """A local copy of the lines of all shards, which the processes of a machine share.

    It lies beside the cached pieces and is not counted among them: without it, no clip could be built.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda shard: _copy_lines(storage, shard, folder), index.shards))
    except OSError as error:
        raise CacheError(f"data.cache: {folder}: cannot be written: {error.strerror or error}") from error
    return LocalFolder(str(folder))


def _copy_lines(storage: Storage, shard: Shard, folder: Path) -> None:
    path = folder / shard.lines
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == shard.lines_sha256:
        return
    write_bytes(path, _at_start(storage, shard.lines, shard.lines_bytes, shard.lines_sha256))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where files can be locked; several do the same work, which does no harm."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
