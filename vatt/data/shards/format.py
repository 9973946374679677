"""What `vatt data pack` writes beside the tar files: index.json, and a line for each source in shard-*.jsonl.

A folder of shards holds:

- index.json: version, settings, totals, and each shard with its checksums. It is written last: where it is, all is.
- shard-000000.tar, shard-000000.jsonl, ...: media, and one line for each source in them. A source is never split over
  two shards. Its rows (start, end, label, ...) and captions are in its line once, however many pieces it has.
- faults.jsonl: what could not be packed, as {file, field, reason}.

A piece is a member of the tar, KEY.ENDING, a small media file that begins at ``begins`` seconds of its source; KEY.json
beside it repeats, for other readers (webdataset), the rows and captions that touch it. Times are seconds of the source.
"""

from __future__ import annotations

import base64
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from vatt.config import show
from vatt.data.captions import Caption, Narration
from vatt.errors import UserError
from vatt.json_files import JSONError, json_line, parse_json

FORMAT, VERSION = "vatt shards", 1
INDEX, FAULTS = "index.json", "faults.jsonl"
TAR_BLOCK = 512  # what a tar is made of: headers and the data of members begin at multiples of it
_LONG = 8  # captions; more are stored compressed: a line of HowTo100M would take ten times as long to read

_KINDS = ("video", "audio", "image")
_SHA256 = re.compile("[0-9a-f]{64}").fullmatch
_MEMBER = re.compile(r"[A-Za-z0-9_-]+\.[a-z0-9]+").fullmatch  # no folder, no "..": a key and one ending
_NUMBER = (int, float)
_NEAR = 1e-6  # seconds: what sums of grid times differ by

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


@dataclass(slots=True)
class PieceLine:
    """A piece: a member of the tar of the shard whose line this is.

    Attributes:
        name: of the member.
        offset: of its bytes (not of its header) in the tar.
    """

    name: str
    offset: int
    size: int
    sha256: str
    begins: float
    seconds: float


@dataclass(slots=True)
class RowLine:
    """A row of the manifest, that is, a clip.

    Attributes:
        number: its place among the clips of the manifest, from 0: clips sorted by it are in the order of the manifest.
        captions: None if they are those of the source.
    """

    number: int
    start: float | None = None
    end: float | None = None
    label: str | None = None
    split: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    captions: Sequence[Caption] | None = None


@dataclass(slots=True)
class SourceLine:
    """A media file that was packed: a line of shard-*.jsonl.

    Attributes:
        source: its path, relative to the manifest (or the folder), unless the manifest has an absolute one that leads
            elsewhere.
        number: its place among the sources, from 0. The keys of its members begin with it.
        kind: "video", "audio" or "image".
        bytes, sha256: of the file that was packed.
        duration: seconds, 0 if it is not known (and of pictures).
        sound: seconds of its sound, None if it has none, 0 if it is not known. Sound may end before the picture does.
        rows: the clips, in the order of the manifest.
        captions: the narration of the whole source.
        pieces: in the order of time.
    """

    source: str
    number: int
    kind: str
    bytes: int
    sha256: str
    duration: float
    sound: float | None
    rows: list[RowLine]
    captions: Sequence[Caption]
    pieces: list[PieceLine]

    def piece(self, start: float, seconds: float) -> PieceLine | None:
        """The piece that holds the window of ``seconds`` from ``start`` on, as far as the source goes; None if none
        does."""
        place = bisect_right(self.pieces, start + _NEAR, key=lambda piece: piece.begins) - 1
        if place < 0:
            return None
        piece = self.pieces[place]
        end = start + seconds
        if self.kind != "image" and end > self.duration > 0:
            end = max(start, self.duration)
        holds = piece.begins + piece.seconds
        return piece if self.kind == "image" or self.duration == 0 or end <= holds + _NEAR else None

    def captions_of(self, row: RowLine) -> Sequence[Caption]:
        """Those of a clip."""
        return self.captions if row.captions is None else row.captions

    def text(self) -> str:
        """The line, without its end."""
        content = {name: getattr(self, name) for name in _SOURCE_PLAIN}
        content["rows"] = [_row_values(row) for row in self.rows]
        if self.captions:
            content["captions"] = _stored(self.captions)
        content["pieces"] = [[getattr(piece, name) for name in _PIECE] for piece in self.pieces]
        return json_line(content)


_PIECE = tuple(f.name for f in fields(PieceLine))
_SOURCE_PLAIN = ("source", "number", "kind", "bytes", "sha256", "duration", "sound")


def _row_values(row: RowLine) -> dict[str, Any]:
    """What differs from the defaults."""
    found: dict[str, Any] = {"number": row.number}
    for name in ("start", "end", "label", "split"):
        if (value := getattr(row, name)) is not None:
            found[name] = value
    if row.extra:
        found["extra"] = row.extra
    if row.captions is not None:
        found["captions"] = _stored(row.captions)
    return found


def _stored(captions: Sequence[Caption]) -> Any:
    """As columns; many of them as the base64 text of a `Narration`."""
    if len(captions) > _LONG:
        narration = captions if isinstance(captions, Narration) else Narration(captions)
        return [len(narration), base64.b64encode(narration.packed).decode()]
    rows = list(captions)
    return {"start": [c.start for c in rows], "end": [c.end for c in rows], "text": [c.text for c in rows]}


def member_text(source: SourceLine, piece: PieceLine, settings: Settings) -> bytes:
    """KEY.json: what other readers need beside a piece. It follows from the line of the source, which ours read."""
    first, last = piece.begins, piece.begins + piece.seconds

    def touches(start: float | None, end: float | None) -> bool:
        still = source.kind == "image"
        return still or ((start is None or start < last) and (end is None or end > first))

    rows = []
    for row in source.rows:
        if touches(row.start, row.end):
            own = {} if row.captions is None else {"captions": [_caption_values(c) for c in row.captions]}
            rows.append(_row_values(replace(row, captions=None)) | own)
    content = {name: getattr(source, name) for name in _SOURCE_PLAIN}
    content |= {"begins": piece.begins, "seconds": piece.seconds, "fps": settings.fps, "rows": rows}
    content["captions"] = [_caption_values(c) for c in source.captions if touches(c.start, c.end)]
    return json_line(content).encode()


def _caption_values(caption: Caption) -> dict[str, Any]:
    """A caption as an object of JSON; without times where it has none."""
    return {name: value for name, value in vars(caption).items() if value is not None}


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
            if not _MEMBER(getattr(shard, name)):
                raise ShardError(
                    f"{where}: shards[{number}].{name}: {getattr(shard, name)!r} is not the name of a file"
                )
        for name in ("sha256", "lines_sha256"):
            if not _SHA256(getattr(shard, name)):
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


def read_sources(lines: Iterable[str | bytes], where: str | Path) -> Iterator[SourceLine]:
    """The sources of shard-*.jsonl from its lines; ``where`` is its path or address, for messages.

    Raises:
        ShardError: a line that does not parse, or a field that is missing or wrong.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield _source(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ShardError(f"{where}, line {number}: is not JSON: {error}") from None
        except _FieldError as error:
            raise ShardError(f"{where}, line {number}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error.args[0]}: is missing" if isinstance(error, KeyError) else f"is not a source: {error}"
            raise ShardError(f"{where}, line {number}: {what}") from None


class _FieldError(Exception):
    """The field that is wrong, and why."""


def _source(content: dict[str, Any]) -> SourceLine:
    source, number, kind, size, sha256, duration, sound = (content[name] for name in _SOURCE_PLAIN)
    _check(type(source) is str and source != "", "source", source)
    _check(type(number) is int and number >= 0, "number", number)
    _check(kind in _KINDS, "kind", kind)
    _check(type(size) is int and size >= 0, "bytes", size)
    _check(type(sha256) is str and _SHA256(sha256), "sha256", sha256)
    _check(_time(duration), "duration", duration)
    _check(sound is None or _time(sound), "sound", sound)
    rows = [_row(row, place) for place, row in enumerate(content["rows"])]
    pieces = [PieceLine(*values) for values in content["pieces"]]
    _check(pieces != [], "pieces", pieces)
    before = -1.0
    for place, piece in enumerate(pieces):
        numbers = type(piece.offset) is type(piece.size) is int and piece.size > 0 and piece.offset >= TAR_BLOCK
        texts = type(piece.name) is type(piece.sha256) is str
        times = _time(piece.seconds) and _time(piece.begins) and piece.begins > before
        if numbers and texts and times and piece.offset % TAR_BLOCK == 0:
            before = piece.begins
            if _MEMBER(piece.name) and _SHA256(piece.sha256):
                continue
            before = -1.0  # its times are right
        raise _FieldError(_wrong_piece(piece, before, f"pieces[{place}]"))
    captions = _captions(content["captions"], "captions") if "captions" in content else ()
    return SourceLine(source, number, kind, size, sha256, duration, sound, rows, captions, pieces)


def _check(right: Any, name: str, value: Any) -> None:
    if not right:
        raise _FieldError(f"{name}: {value!r:.60} is not valid")


def _time(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and 0 <= value < math.inf


def _row(content: dict[str, Any], place: int) -> RowLine:
    try:
        row = RowLine(**content)
    except TypeError as error:  # no object, or a field that is missing or not known
        raise _FieldError(f"rows[{place}]: {str(error).replace('RowLine.__init__() ', '')}") from None
    _check(type(row.number) is int and row.number >= 0, f"rows[{place}].number", row.number)
    _check(row.start is None or _time(row.start), f"rows[{place}].start", row.start)
    _check(row.end is None or _time(row.end), f"rows[{place}].end", row.end)
    _check(row.label is None or type(row.label) is str, f"rows[{place}].label", row.label)
    _check(row.split is None or type(row.split) is str, f"rows[{place}].split", row.split)
    _check(type(row.extra) is dict, f"rows[{place}].extra", row.extra)
    if row.captions is not None:
        row.captions = _captions(row.captions, f"rows[{place}].captions")
    return row


def _captions(content: Any, name: str) -> Sequence[Caption]:
    try:
        if isinstance(content, list):
            count, packed = content
            return Narration.from_packed(count, base64.b64decode(packed, validate=True))
        columns = zip(content["text"], content["start"], content["end"], strict=True)
        return tuple(Caption(text, start, end) for text, start, end in columns)
    except (KeyError, TypeError, ValueError) as error:
        raise _FieldError(f"{name}: cannot be read: {error!r:.80}") from None


def _wrong_piece(piece: PieceLine, before: float, name: str) -> str:
    tests = {
        "name": type(piece.name) is str and _MEMBER(piece.name),
        "offset": type(piece.offset) is int and piece.offset >= TAR_BLOCK and piece.offset % TAR_BLOCK == 0,
        "size": type(piece.size) is int and piece.size > 0,
        "sha256": type(piece.sha256) is str and _SHA256(piece.sha256),
        "begins": _time(piece.begins) and piece.begins > before,
        "seconds": _time(piece.seconds),
    }
    wrong = next((key for key, right in tests.items() if not right), "begins")
    return f"{name}.{wrong}: {getattr(piece, wrong)!r:.60} is not valid"
