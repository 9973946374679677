"""The lines of shard-*.jsonl: one for each source, with its rows, captions and pieces.

A piece is a member of the tar, KEY.ENDING, a small media file that begins at ``begins`` seconds of its source; KEY.json
beside it repeats, for other readers (webdataset), the rows and captions that touch it. Times are seconds of the source.
"""

from __future__ import annotations

import base64
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vatt.data.captions import Caption, Narration
from vatt.data.shards.format import TAR_BLOCK, Settings, ShardError, is_member, is_sha256
from vatt.json_files import JSONError, json_line, parse_json

_LONG = 8  # captions; more are stored compressed: a line of HowTo100M would take ten times as long to read
_KINDS = ("video", "audio", "image")
_NEAR = 1e-6  # seconds: what sums of grid times differ by


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


def read_sources(lines: Iterable[str | bytes], where: str | Path) -> Iterator[SourceLine]:
    """The sources of shard-*.jsonl from its lines; ``where`` is its path or address, for messages.

    Raises:
        ShardError: a line that does not parse, or a field that is missing or wrong.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield _source(parse_json(line, f"{where}, line {number}", dict, surrogates=True))
        except JSONError as error:
            raise ShardError(str(error)) from None
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
    _check(type(sha256) is str and is_sha256(sha256), "sha256", sha256)
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
            if is_member(piece.name) and is_sha256(piece.sha256):
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
        "name": type(piece.name) is str and is_member(piece.name),
        "offset": type(piece.offset) is int and piece.offset >= TAR_BLOCK and piece.offset % TAR_BLOCK == 0,
        "size": type(piece.size) is int and piece.size > 0,
        "sha256": type(piece.sha256) is str and is_sha256(piece.sha256),
        "begins": _time(piece.begins) and piece.begins > before,
        "seconds": _time(piece.seconds),
    }
    wrong = next((key for key, right in tests.items() if not right), "begins")
    return f"{name}.{wrong}: {getattr(piece, wrong)!r:.60} is not valid"
