"""What the processes of a pack job do, one task at a time: read a source, make a piece, write the shards of a group.

Each leaves its work in a file that has its name only when it is whole and on the disk. What was done before a job was
killed is found there again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vatt.data.decode import MediaError
from vatt.data.pack.transcode import Probed, ending_of, probe, transcode
from vatt.data.reading import bad_clip
from vatt.data.shards.format import Settings, Shard, shard_names
from vatt.data.shards.lines import PieceLine, SourceLine, member_text
from vatt.files import appearing, write_bytes

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ESTALE}


@dataclass(frozen=True)
class Fault:
    """A task that failed because of its source: which part of it, and why."""

    field: str
    reason: str


@dataclass(frozen=True)
class Short:
    """A piece that has fewer frames than was asked, because its source breaks off."""

    frames: int
    reason: str


@dataclass(frozen=True)
class CannotWrite:
    """A task that failed because nothing can be written; the job cannot go on."""

    reason: str


@dataclass(frozen=True)
class ProbeTask:
    """Reads a source: checksum, duration."""

    path: Path
    kind: str
    number: int
    folder: Path


@dataclass(frozen=True)
class PieceTask:
    """Makes the piece ``piece`` of a source."""

    path: Path
    kind: str
    number: int
    folder: Path
    piece: int
    first: int
    frames: int
    seen: tuple[int, int]  # size and last change of the source when its checksum was taken
    settings: Settings
    seconds: float


@dataclass(frozen=True)
class ShardTask:
    """Writes the shards of a group from its pieces. The pieces of ``sources`` have no offsets and checksums yet."""

    group: int
    folder: Path
    out: Path
    sources: list[SourceLine]
    settings: Settings


Task = ProbeTask | PieceTask | ShardTask


def run_task(task: Task) -> Any:
    """Probed, None or Short for a piece, a list of Shard; or Fault, or CannotWrite."""
    try:
        if isinstance(task, ShardTask):
            return write_shards(task)
        return _probe(task) if isinstance(task, ProbeTask) else _piece(task)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            return CannotWrite(f"{error.filename or task.folder}: {error.strerror}")
        if isinstance(task, ShardTask):
            raise
        bad = bad_clip(error, task.path)
        return Fault(bad.field, bad.reason)


def key_of(number: int, piece: int) -> str:
    """Of the members of a piece."""
    return f"{number:08d}-{piece:05d}"


def probed_path(folder: Path, number: int) -> Path:
    """Where what is known of a source is kept while its group is packed."""
    return folder / f"{number:08d}.json"


def piece_path(folder: Path, number: int, piece: int, kind: str, settings: Settings) -> Path:
    """Where a piece is kept while its group is packed."""
    return folder / f"{key_of(number, piece)}.{ending_of(kind, settings)}"


def write_durably(path: Path, content: str | bytes) -> None:
    """A file that has its name only when it is whole and on the disk. A process that a killed job has left behind may
    still write the same one."""
    write_bytes(path, content.encode() if isinstance(content, str) else content, sync=True, several=True)


def _probe(task: ProbeTask) -> Probed:
    found = probe(task.path, task.kind)
    path = probed_path(task.folder, task.number)
    write_bytes(path, json.dumps(asdict(found)).encode(), several=True)  # not sync: what a crash spoils is read again
    return found


def short_path(folder: Path, number: int, piece: int) -> Path:
    """Beside a piece that is `Short`: why."""
    return folder / f"{key_of(number, piece)}.short.json"


def _piece(task: PieceTask) -> Short | None:
    made = transcode(task.path, task.kind, task.first, task.frames, task.settings, task.seconds)
    try:
        status = os.stat(task.path)
    except OSError as error:
        raise MediaError(task.path, task.kind, f"cannot be read: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != task.seen:
        raise MediaError(task.path, task.kind, "changed while it was packed")
    short = None if made.why is None else Short(made.frames, made.why)
    if short is not None:  # first: where the piece is, this is
        write_durably(short_path(task.folder, task.number, task.piece), json.dumps(asdict(short)))
    write_durably(piece_path(task.folder, task.number, task.piece, task.kind, task.settings), made.content)
    return short


class _Hashed(io.RawIOBase):
    """A file to write to, with the checksum of all that was written."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        self.bytes += len(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.bytes

    def writable(self) -> bool:
        return True


@contextmanager
def _whole_file(path: Path) -> Iterator[_Hashed]:
    with appearing(path, sync=True, several=True) as partly, partly.open("wb") as file:
        yield _Hashed(file)


def write_shards(task: ShardTask) -> list[Shard]:
    """The shards of a group: one, or more where it has more bytes than a shard may have."""
    made: list[Shard] = []
    waiting = list(task.sources)
    while waiting:
        count, total = 0, 0
        while count < len(waiting):
            total += sum(_room(task, waiting[count], piece) for piece in waiting[count].pieces)
            if count and total > task.settings.shard_size:
                break
            count += 1
        made.append(_write_shard(task, waiting[:count], shard_names(task.group, len(made))))
        waiting = waiting[count:]
    return made


def _room(task: ShardTask, source: SourceLine, piece: PieceLine) -> int:
    return (task.folder / piece.name).stat().st_size + len(member_text(source, piece, task.settings)) + 2048


def _write_shard(task: ShardTask, sources: Sequence[SourceLine], names: tuple[str, str]) -> Shard:
    with _whole_file(task.out / names[0]) as tar:
        archive = tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload] # noqa: SIM115
        for source in sources:
            for piece in source.pieces:
                path = task.folder / piece.name
                with path.open("rb") as file:
                    piece.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                    piece.size = os.fstat(file.fileno()).st_size
                    file.seek(0)
                    piece.offset = archive.offset + tarfile.BLOCKSIZE
                    archive.addfile(_member(piece.name, piece.size), file)
                text = member_text(source, piece, task.settings)  # the next member: so webdataset joins them
                name = f"{piece.name.partition('.')[0]}.json"
                archive.addfile(_member(name, len(text)), io.BytesIO(text))
        archive.close()
    with _whole_file(task.out / names[1]) as lines:
        for source in sources:
            lines.write(source.text().encode() + b"\n")
    counts = (len(sources), sum(len(s.pieces) for s in sources), sum(len(s.rows) for s in sources))
    seconds = round(sum(piece.seconds for s in sources for piece in s.pieces), 3)
    checks = (tar.bytes, tar.sha256.hexdigest(), names[1], lines.bytes, lines.sha256.hexdigest())
    return Shard(names[0], *checks, *counts, seconds)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info
