"""What is known of a source before its group is packed and while it is: pieces, which rows they serve, its line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.decode import duration_of, open_media
from vatt.data.pack.plan import PiecePlan, PlannedSource, needed, row_range, whole
from vatt.data.pack.tasks import Fault, Short, key_of
from vatt.data.pack.transcode import Probed, ending_of
from vatt.data.shards.format import Settings
from vatt.data.shards.lines import PieceLine, RowLine, SourceLine
from vatt.data.skipped import Record
from vatt.isolated import run_isolated

_SAMPLE = 32  # files whose headers tell how long the others probably are


@dataclass
class Source:
    """A source of a group that is being packed.

    Attributes:
        failed, short: by piece.
        fault: of the whole source.
        waiting: pieces that are not done.
    """

    planned: PlannedSource
    probed: Probed | None = None
    pieces: list[PiecePlan] = field(default_factory=list)
    failed: dict[int, Fault] = field(default_factory=dict)
    short: dict[int, Short] = field(default_factory=dict)
    fault: Fault | None = None
    waiting: int = 0

    def rows_and_faults(self, settings: Settings) -> tuple[list[RowLine], list[Record]]:
        """The rows that can be used, and a record for each reason why others cannot."""
        planned, good = self.planned, []
        reasons: dict[Fault, int] = {}
        for row in planned.rows:
            fault = self.fault
            if fault is None:
                fault = self._missing(row, settings)
            if fault is None:
                good.append(row)
            else:
                reasons[fault] = reasons.get(fault, 0) + 1
        records = []
        for fault, count in reasons.items():
            some = f" ({count} of {len(planned.rows)} clips)" if count < len(planned.rows) else ""
            records.append({"file": str(planned.path), "field": fault.field, "reason": fault.reason + some})
        return good, records

    def _missing(self, row: RowLine, settings: Settings) -> Fault | None:
        """Why a row cannot be read from the pieces of its source; None if it can."""
        if self.probed is None or not (self.failed or self.short):
            return None
        about = (row, self.planned, self.pieces, self.probed.duration, settings)
        for number in sorted(needed(*about)):
            if number in self.failed:
                return self.failed[number]
            piece, short = self.pieces[number], self.short.get(number)
            # A frame of the margin may be missing: no window ends in it.
            _, last = row_range(row, self.planned.kind, self.probed.duration, settings)
            if short is not None and min(last, piece.first + piece.frames) - 1 > piece.first + short.frames:
                return Fault(self.planned.kind, short.reason)
        return None

    def line(self, settings: Settings) -> SourceLine | None:
        """The line of a source, without offsets and checksums of its pieces; None if no row is left."""
        planned, probed = self.planned, self.probed
        rows, _ = self.rows_and_faults(settings)
        if probed is None or not rows:
            return None
        used = set().union(*(needed(row, planned, self.pieces, probed.duration, settings) for row in rows))
        ending, fps = ending_of(planned.kind, settings), settings.fps
        pieces = []
        for piece in self.pieces:
            if piece.number in used and piece.number not in self.failed:
                frames = self.short[piece.number].frames if piece.number in self.short else piece.frames
                name = f"{key_of(planned.number, piece.number)}.{ending}"
                pieces.append(PieceLine(name, 0, 0, "", piece.first / fps, round(frames / fps, 9)))
        about = (planned.name, planned.number, planned.kind, probed.size, probed.sha256, probed.duration, probed.sound)
        return SourceLine(*about, rows, planned.captions, pieces)


def changed(path: Path, seen: Sequence[Any]) -> str | None:
    """How a file differs from [size, last change, checksum], in words; None if its content does not."""
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (seen[0], seen[1]):
            return None
        if status.st_size == seen[0]:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == seen[2]:
                    return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "has changed"


def seconds_a_byte(sources: Sequence[PlannedSource], workers: int) -> float:
    """Of the files of which all is packed, from the headers of some."""
    wholes = [source for source in sources if whole(source)]
    some = wholes[:: max(1, len(wholes) // _SAMPLE)][:_SAMPLE]
    found = [result for _, result in run_isolated(_length, [s.path for s in some], workers=min(4, workers), seconds=60)]
    pairs = [pair for pair in found if isinstance(pair, tuple) and pair[0] > 0]
    seconds, size = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (1.0, 100_000)
    return seconds / max(1, size)


def _length(path: Path) -> tuple[float, int]:
    """Seconds and bytes of a file."""
    with open_media(path, "video") as container:
        return duration_of(container, path), path.stat().st_size
