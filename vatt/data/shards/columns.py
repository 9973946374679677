"""The lines of all shards in columns: where the line of each source is, and what is asked of all clips at once."""

from __future__ import annotations

import gc
import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from vatt.data.shards.format import INDEX, Index, Shard, ShardError
from vatt.data.shards.lines import PieceLine, SourceLine, read_sources
from vatt.data.shards.storage import LocalFolder, Unavailable
from vatt.data.splits import name_digest

KINDS = ("video", "audio", "image")


@dataclass(frozen=True)
class Columns:
    """Of S sources: where their lines are (shard, offset, size), and a digest of their names. Of N clips, in the order
    of the manifest: their source, the row of its line, and the number of their split among ``names``."""

    shard_S: np.ndarray
    offset_S: np.ndarray
    size_S: np.ndarray
    digest_S: np.ndarray
    kind_S: np.ndarray
    source_N: np.ndarray
    row_N: np.ndarray
    split_N: np.ndarray
    captioned_N: np.ndarray
    names: tuple[str | None, ...]


def read_columns(index: Index, lines: LocalFolder, name: str, other_sizes: Mapping[int, int]) -> Columns:
    """Reads and checks all lines.

    Args:
        lines: the folder of the shard-*.jsonl.
        name: of the data set, for messages.
        other_sizes: bytes of those shards that have not as many as the index says.

    Raises:
        ShardError: a line is wrong, the lines differ from the index, or a shard is too short or too long.
    """
    with _without_collector():
        return _read_columns(index, lines, name, other_sizes)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small objects come and go, none of them in a circle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read_columns(index: Index, lines: LocalFolder, name: str, other_sizes: Mapping[int, int]) -> Columns:
    shard_S, offset_S, size_S, digest_S, kind_S = array("i"), array("q"), array("i"), array("Q"), array("b")
    number_N, source_N, row_N, split_N, captioned_N = array("q"), array("i"), array("i"), array("i"), array("b")
    splits: dict[str | None, int] = {}
    for number, shard in enumerate(index.shards):
        where = f"{name}/{shard.lines}"
        texts = _checked_lines(lines, shard, where)
        offset, pieces = 0, 0
        before = len(shard_S), len(number_N)
        for text, source in zip(texts, read_sources(texts, where), strict=True):
            _check_pieces(shard, source, other_sizes.get(number, shard.bytes), f"{name}/{shard.file}")
            for place, row in enumerate(source.rows):
                number_N.append(row.number)
                source_N.append(len(shard_S))
                row_N.append(place)
                split_N.append(splits.setdefault(row.split, len(splits)))
                captioned_N.append(bool(source.captions_of(row)))
            shard_S.append(number)
            offset_S.append(offset)
            size_S.append(len(text))
            digest_S.append(name_digest(source.source))
            kind_S.append(KINDS.index(source.kind))
            offset += len(text) + 1
            pieces += len(source.pieces)
        found = (len(shard_S) - before[0], pieces, len(number_N) - before[1])
        if found != (shard.sources, shard.pieces, shard.clips):
            raise ShardError(f"{where}: holds {found} sources, pieces and clips, which {INDEX} does not say")
        if number in other_sizes:
            raise ShardError(_other_size(shard, other_sizes[number], f"{name}/{shard.file}"))
    numbers_N = np.frombuffer(number_N, np.int64)
    order_N = np.argsort(numbers_N, kind="stable")
    if (twice := np.flatnonzero(np.diff(numbers_N[order_N]) == 0)).size:
        raise ShardError(f"{name}/{INDEX}: row {numbers_N[order_N[twice[0]]]} of the manifest is there twice")
    return Columns(
        shard_S=np.array(shard_S),
        offset_S=np.array(offset_S),
        size_S=np.array(size_S),
        digest_S=np.array(digest_S),
        kind_S=np.array(kind_S),
        source_N=np.array(source_N)[order_N],
        row_N=np.array(row_N)[order_N],
        split_N=np.array(split_N)[order_N],
        captioned_N=np.array(captioned_N)[order_N],
        names=tuple(splits),
    )


def _checked_lines(lines: LocalFolder, shard: Shard, where: str) -> list[bytes]:
    """The lines of a shard. Raises ShardError: not those that the index means."""
    try:
        content = lines.read(shard.lines, 0, None)
    except Unavailable as error:
        raise ShardError(f"{where}: {error.reason}, though {INDEX} names it") from error
    if hashlib.sha256(content).hexdigest() != shard.lines_sha256:
        raise ShardError(f"{where}: {len(content)} bytes with another SHA-256 than {INDEX} says; was it changed?")
    texts = content.split(b"\n")
    return texts[:-1] if texts[-1] == b"" else texts


def _check_pieces(shard: Shard, source: SourceLine, size: int, where: str) -> None:
    """Raises ShardError: a piece lies past the end of the shard."""
    for piece in source.pieces:
        if piece.offset + piece.size > size:
            raise ShardError(_other_size(shard, size, where, piece))


def _other_size(shard: Shard, size: int, where: str, lost: PieceLine | None = None) -> str:
    if size == shard.bytes and lost is not None:
        return f"{where}: {lost.name} ends at byte {lost.offset + lost.size}, past the end, {size}"
    what = f"{lost.name} and what follows are lost" if lost is not None else "it was changed"
    return f"{where}: has {size} bytes, {INDEX} says {shard.bytes}: {what}; pack or copy it again"
