"""Checking shards: the index against the files, checksums, the members of each tar, and that each piece decodes."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vatt.data.check.cache import ResultCache, key_of
from vatt.data.decode import MediaError, TimeLimit, open_media
from vatt.data.shards.format import INDEX, Index, Settings, Shard, ShardError, read_index
from vatt.data.shards.lines import SourceLine, member_text, read_sources
from vatt.data.skipped import Record
from vatt.isolated import Failed, run_isolated

_A_PIECE = 60.0  # seconds for decoding one, with a lot to spare


@dataclass(frozen=True)
class ShardFile:
    """A shard to check."""

    folder: Path
    shard: Shard
    settings: Settings
    quick: bool


@dataclass(frozen=True)
class CheckedShards:
    """What came of it: a record {file, field, reason} of each fault; field is the member, or what else is wrong."""

    index: Index
    faults: list[Record]


def is_shards(data: Path) -> bool:
    """Whether a folder is one of shards, whole or not."""
    return data.is_dir() and ((data / INDEX).is_file() or next(data.glob("shard-*.tar"), None) is not None)


def check_shards(
    folder: Path,
    *,
    workers: int = 2,
    quick: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    cache: ResultCache | None = None,
) -> CheckedShards:
    """Reads all of a folder of shards.

    Args:
        workers: number of processes.
        quick: whether only the sizes of the files are compared.
        progress: called with (shards done, shards in all, faults).
        cache: of an earlier check, which was stopped, and of this one.

    Raises:
        ShardError: there is no index, or it cannot be read.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ShardError(f"{path}: is missing: packing has not finished; start `vatt data pack` again")
    index = read_index(path.read_bytes(), path)
    faults: list[Record] = []
    files = [ShardFile(folder, shard, index.settings, quick) for shard in index.shards]
    found: dict[str, list[Record]] = {}
    if quick:
        found = {file.shard.file: check_shard(file) for file in files}
        files = []
    cache = ResultCache(None) if cache is None else cache
    keys = {}
    for file in files:
        key = keys[file.shard.file] = key_of(
            folder / file.shard.file, key_of(folder / file.shard.lines), file.shard.sha256
        )
        if (known := cache.known(key)) is not None:
            found[file.shard.file] = known
    count = len(files)
    files = [file for file in files if file.shard.file not in found]
    tried = run_isolated(check_shard, files, workers=workers, seconds=lambda file: 600 + _A_PIECE * file.shard.pieces)
    for file, result in tried:
        if isinstance(result, Failed):
            result = [_fault(folder / file.shard.file, "decode", result.reason)]
        found[file.shard.file] = result
        cache.add(keys[file.shard.file], result)
        if progress is not None:
            progress(len(found), count, sum(map(len, found.values())))
    for shard in index.shards:
        faults += found[shard.file]
    known = {name for shard in index.shards for name in (shard.file, shard.lines)}
    strange = sorted({path.name for path in folder.glob("shard-*") if path.suffix in (".tar", ".jsonl")} - known)
    faults += [_fault(folder / name, "index", f"is not in {INDEX}") for name in strange]
    return CheckedShards(index, faults)


def _fault(path: Path, field: str, reason: str) -> Record:
    return {"file": str(path), "field": field, "reason": reason}


def check_shard(file: ShardFile) -> list[Record]:
    """What is wrong with a shard."""
    shard, tar, lines = file.shard, file.folder / file.shard.file, file.folder / file.shard.lines
    faults = [*_size(tar, shard.bytes), *_size(lines, shard.lines_bytes)]
    there = tar.is_file() and lines.is_file()
    if file.quick or not there:
        return faults
    text = lines.read_bytes()
    if hashlib.sha256(text).hexdigest() != shard.lines_sha256:
        faults.append(_fault(lines, "sha256", "the checksum is not that of the index"))
    try:
        sources = list(read_sources(text.splitlines(), lines))
    except ShardError as error:
        return [*faults, _fault(lines, "line", str(error).removeprefix(f"{lines}, "))]
    counts = (len(sources), sum(len(s.pieces) for s in sources), sum(len(s.rows) for s in sources))
    if counts != (shard.sources, shard.pieces, shard.clips):
        faults.append(_fault(lines, "index", f"has {counts} sources, pieces and clips; the index says otherwise"))
    inside = [*_headers(tar, sources), *_members(tar, sources, file.settings)]
    with tar.open("rb") as opened:
        same = hashlib.file_digest(opened, "sha256").hexdigest() == shard.sha256
    if not same and not inside and not faults:
        faults.append(_fault(tar, "sha256", "the checksum is not that of the index, though all members are right"))
    return faults + inside


def _size(path: Path, size: int) -> list[Record]:
    if not path.is_file():
        return [_fault(path, "file", "is missing")]
    if (found := path.stat().st_size) != size:
        what = "is cut off" if found < size else "is too long"
        return [_fault(path, "bytes", f"{what}: has {found} bytes, the index says {size}")]
    return []


def _headers(path: Path, sources: list[SourceLine]) -> Iterator[Record]:
    """The names in the tar: no path out of the folder, nothing but files, and those of the lines in their order."""
    expected = [name for s in sources for p in s.pieces for name in (p.name, f"{p.name.partition('.')[0]}.json")]
    found: list[str] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                found.append(member.name)
                place = PurePosixPath(member.name)
                if place.is_absolute() or ".." in place.parts:
                    yield _fault(path, member.name, "is a path that leads out of the folder")
                elif not member.isreg():
                    yield _fault(path, member.name, "is no regular file")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield _fault(path, found[-1] if found else "tar", f"the tar cannot be read on: {error}")
        return
    there, wanted = set(found), set(expected)  # a shard of pictures has many thousands
    for name in expected:
        if name not in there:
            yield _fault(path, name, "is missing in the tar")
    for name in found:
        if name not in wanted:
            yield _fault(path, name, "is not in the lines of the shard")


def _members(path: Path, sources: list[SourceLine], settings: Settings) -> Iterator[Record]:
    """The bytes of all members, at the places where readers look for them, and whether pieces decode."""
    with path.open("rb") as file:
        for source in sources:
            for piece in source.pieces:
                file.seek(piece.offset)
                content = file.read(piece.size)
                if len(content) < piece.size:
                    yield _fault(path, piece.name, f"is cut off: {len(content)} of {piece.size} bytes are there")
                    continue
                if hashlib.sha256(content).hexdigest() != piece.sha256:
                    yield _fault(path, piece.name, "the checksum is not that of its line")
                    continue
                if reason := _undecodable(content):
                    yield _fault(path, piece.name, reason)
                padding = -piece.size % tarfile.BLOCKSIZE
                file.seek(piece.offset + piece.size + padding + tarfile.BLOCKSIZE)
                text = member_text(source, piece, settings)
                if file.read(len(text)) != text:
                    yield _fault(
                        path, f"{piece.name.partition('.')[0]}.json", "is not what the line of its source says"
                    )


def _undecodable(content: bytes) -> str | None:
    """Why a piece does not decode, or None."""
    frames = 0
    try:
        with open_media(content, "video", limit=TimeLimit("piece", _A_PIECE)) as container:
            for packet in container.demux():
                frames += len(packet.decode())
    except MediaError as error:
        return error.reason
    return None if frames else "cannot be decoded: holds no frame"
