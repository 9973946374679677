"""The format of packed data sets: the files of a folder of shards, and its index.

A folder of shards holds:

- index.json: version, settings, totals, and each shard with its checksums. It is written last: where it is, all is.
- shard-000000.tar, shard-000000.jsonl, ...: media, and one line for each source in them. A source is never split over
  two shards. Its rows (start, end, label, ...) and captions are in its line once, however many pieces it has.
- faults.jsonl: what could not be packed, as {file, field, reason}.

The index is here; the lines, with what they say of the members of the tar, are in `vatt.data.shards.lines`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from vatt.config import show
from vatt.errors import UserError
from vatt.json_files import JSONError, parse_json

FORMAT, VERSION = "vatt shards", 1
INDEX, FAULTS = "index.json", "faults.jsonl"
TAR_BLOCK = 512  # what a tar is made of: headers and the data of members begin at multiples of it
is_sha256 = re.compile("[0-9a-f]{64}").fullmatch
is_member = re.compile(r"[A-Za-z0-9_-]+\.[a-z0-9]+").fullmatch  # no folder, no "..": a key and one ending
_NUMBER = (int, float)

Made = TypeVar("Made")


class ShardError(UserError, ValueError):
    """Shards that cannot be used. The message names the file, the line or member, and the field."""


@dataclass(frozen=True)
class Settings:
    """What the bytes of shards depend on, beside the sources.

    Attributes:
        size: pixels of the shorter side of the picture; smaller sources keep theirs.
        fps: frames a second.
        window: seconds of the longest window that each piece can give anywhere.
        piece: seconds of new material in a piece, at most; it overlaps the next one by the window.
        shard_size: bytes of a shard, at most, unless one source alone has more.
        rate: samples a second of the sound, which is mono.
        video, sound, image: codec and options, in words.
    """

    size: int
    fps: float
    window: float
    piece: float
    shard_size: int
    rate: int
    video: str
    sound: str
    image: str


@dataclass(frozen=True)
class Shard:
    """A shard in the index: the names of its two files, their bytes and checksums, and what they hold."""

    file: str
    bytes: int
    sha256: str
    lines: str
    lines_bytes: int
    lines_sha256: str
    sources: int
    pieces: int
    clips: int
    seconds: float


@dataclass(frozen=True)
class Index:
    """index.json.

    Attributes:
        data: identifies the rows that were packed: a digest of the manifest.
        faults: number of lines in faults.jsonl.
    """

    settings: Settings
    data: str
    shards: tuple[Shard, ...]
    faults: int

    @property
    def sources(self) -> int:
        return sum(shard.sources for shard in self.shards)

    @property
    def clips(self) -> int:
        return sum(shard.clips for shard in self.shards)

    @property
    def pieces(self) -> int:
        return sum(shard.pieces for shard in self.shards)

    @property
    def seconds(self) -> float:
        return sum(shard.seconds for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes + shard.lines_bytes for shard in self.shards)

    def text(self) -> str:
        """As it is in the file."""
        totals = {name: getattr(self, name) for name in ("sources", "clips", "pieces", "seconds", "bytes")}
        content = {"format": FORMAT, "version": VERSION, "data": self.data, "faults": self.faults}
        content |= {"totals": totals | {"seconds": round(self.seconds, 3)}, "settings": vars(self.settings)}
        return json.dumps(content | {"shards": [vars(shard) for shard in self.shards]}, indent=1) + "\n"


def shard_names(group: int, part: int = 0) -> tuple[str, str]:
    """The names of the tar and of its lines. Where a group of sources needs several shards, the next ones have their
    part behind the number, so that names sort in the order of the sources."""
    stem = f"shard-{group:06d}" + (f"_{part}" if part else "")
    return f"{stem}.tar", f"{stem}.jsonl"


def read_index(text: str | bytes, where: str | Path) -> Index:
    """index.json from its text; ``where`` is its path or address, for messages.

    Raises:
        ShardError: it is not one, of another version, or a field is missing or wrong.
    """
    try:
        content = parse_json(text, where, surrogates=True)
    except JSONError as error:
        raise ShardError(str(error)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ShardError(f"{where}: format: is not an index of shards that `vatt data pack` wrote")
    if content.get("version") != VERSION:
        raise ShardError(f"{where}: version: {show(content.get('version'))}, but this program reads {VERSION}")
    settings = _made(Settings, content.get("settings"), where, "settings")
    rows = content.get("shards")
    if not isinstance(rows, list):
        raise ShardError(f"{where}: shards: must be a list")
    shards = tuple(_made(Shard, row, where, f"shards[{number}]") for number, row in enumerate(rows))
    for number, shard in enumerate(shards):
        for name in ("file", "lines"):
            if not is_member(getattr(shard, name)):
                raise ShardError(
                    f"{where}: shards[{number}].{name}: {getattr(shard, name)!r} is not the name of a file"
                )
        for name in ("sha256", "lines_sha256"):
            if not is_sha256(getattr(shard, name)):
                raise ShardError(f"{where}: shards[{number}].{name}: is not a SHA-256 in hexadecimal digits")
    for name, kind in (("data", str), ("faults", int)):
        if not isinstance(content.get(name), kind):
            raise ShardError(f"{where}: {name}: must be of type {kind.__name__}, got {show(content.get(name))}")
    index = Index(settings, content["data"], shards, content["faults"])
    names = [shard.file for shard in shards]
    if len(set(names)) < len(names):
        raise ShardError(f"{where}: shards: a file is named twice")
    for name in ("sources", "clips", "pieces", "bytes"):
        totals = content.get("totals")
        total = totals.get(name) if isinstance(totals, dict) else None
        if total != getattr(index, name):
            raise ShardError(f"{where}: totals.{name}: {show(total)}, but the shards sum up to {getattr(index, name)}")
    return index


_TYPES: dict[str, Any] = {"int": int, "float": _NUMBER, "str": str}


def _made(kind: type[Made], values: Any, where: str | Path, name: str) -> Made:
    """A flat dataclass of numbers and texts from an object of the file, all fields checked."""
    if not isinstance(values, dict):
        raise ShardError(f"{where}: {name}: must be an object")
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    for wrong in values.keys() ^ known.keys():
        raise ShardError(f"{where}: {name}.{wrong}: {'is missing' if wrong in known else 'is not known'}")
    for key, value in values.items():
        fits = isinstance(value, _TYPES[known[key]]) and not isinstance(value, bool)
        if not fits or (isinstance(value, _NUMBER) and not 0 <= value < math.inf):
            raise ShardError(f"{where}: {name}.{key}: {show(value)} is not a valid {known[key]}")
    return kind(**values)
