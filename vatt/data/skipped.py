"""What was skipped, and when it is too much."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vatt.data.decode import MediaError
from vatt.errors import UserError, printable
from vatt.json_files import json_line

Record = dict[str, Any]  # {"file", "field", "reason", ...}
_Key = tuple[str, str, str]
ENOUGH = 20  # clips tried before the share of skipped ones means anything


class TooManySkipped(UserError, RuntimeError):
    """More clips than ``data.max_bad_share`` allows could not be read."""


def skipped_clip(dataset: str, error: MediaError) -> Record:
    """The record of a clip that cannot be decoded."""
    return {"dataset": dataset, "file": error.file, "field": error.field, "reason": error.reason}


class SkipLog:
    """Collects the files that gave no clip, each once, in a .jsonl file.

    Args:
        path: the file that records are appended to, but for those that an earlier part of the run has written there;
            None keeps them in memory alone.
        max_bad_share: of the clips that were tried.
    """

    def __init__(self, path: Path | None, max_bad_share: float) -> None:
        self.path, self.max_bad_share = path, max_bad_share
        self.tried = self.skipped = 0
        self.records: dict[_Key, Record] = {}
        self._written = _read(path)

    def add(self, tried: int, skipped: Iterable[Record]) -> None:
        """Counts ``tried`` clips that were asked for and the records of those that failed.

        Raises:
            TooManySkipped: the share of skipped clips passed the limit; names some of the files.
        """
        skipped = list(skipped)
        self.tried, self.skipped = self.tried + tried + len(skipped), self.skipped + len(skipped)
        self.note(skipped)
        if self.tried >= ENOUGH and self.skipped > self.max_bad_share * self.tried:
            raise TooManySkipped(
                f"{self.skipped} of {self.tried} clips could not be read, more than data.max_bad_share = "
                f"{self.max_bad_share:g} allows. {self.summary()}"
            )

    def note(self, skipped: Iterable[Record]) -> None:
        """Keeps records, each file and field once (of rows that start behind the end, each), uncounted."""
        new = {}
        for record in skipped:
            if (key := _key(record)) not in self.records:
                new[key] = record
        self.records.update(new)
        if (
            lines := [json_line(record) + "\n" for key, record in new.items() if key not in self._written]
        ) and self.path:
            self._written |= new.keys()
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)

    def summary(self) -> str:
        """One line for people: how many files, and the first three with their reasons."""
        if not self.records:
            return "no file was skipped"
        first = [printable(f"{r['file']} ({r['field']}: {r['reason']})") for r in list(self.records.values())[:3]]
        more = f" and {len(self.records) - 3} more" if len(self.records) > 3 else ""
        return f"{len(self.records)} skipped: {'; '.join(first)}{more}"


def _key(record: Record) -> _Key:
    row = str(record["reason"]) if record["field"] == "start" else ""  # of a row, of which a file may have more
    return str(record["file"]), str(record["field"]), row


def _read(path: Path | None) -> set[_Key]:
    """The keys of the records of a file. A line that a kill has cut short is ended, so that the next one is read."""
    found: set[_Key] = set()
    if path is None or not path.is_file():
        return found
    lines = path.read_bytes().split(b"\n")
    if lines[-1]:
        with path.open("ab") as file:
            file.write(b"\n")
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            found.add(_key(json.loads(line)))
    return found
