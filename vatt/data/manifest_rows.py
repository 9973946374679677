"""The rows of a manifest file (.csv, .jsonl), as they stand there."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MEDIA = ("video", "audio", "image")  # the columns that name a file; a row fills one of them
COLUMNS = (*MEDIA, "start", "end", "caption", "captions", "label", "split")


class ManifestError(ValueError):
    """A data set that cannot be used. The message names the file, the line and the column."""


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a manifest, each with the words that name its place."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".ndjson"):
        raise ManifestError(f"{path}: a manifest ends in .csv or .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="" if suffix == ".csv" else "\n") as file:
            yield from (_table_rows if suffix == ".csv" else _json_rows)(path, file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from error


def _table_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(2**30)  # captions of a film in one value
    reader = csv.DictReader(file)
    _check_columns(path, list(reader.fieldnames or []))
    for row in reader:
        if None in row:
            raise ManifestError(f"{path}, line {reader.line_num}: more values than columns")
        yield f"line {reader.line_num}", row


def _json_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    known: set[tuple[str, ...]] = set()  # columns that were looked at: they are alike in all rows but few
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{path}, line {number}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}, line {number}: expected an object, got {line[:40]!r}")
        if (names := tuple(row)) not in known:
            _check_columns(path, list(names))
            known.add(names)
        yield f"line {number}", row


def _check_columns(path: Path, names: list[str]) -> None:
    """The video column must be there, and no other column may be a misspelling of one of ours."""
    for name in names:
        meant = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.8)
        if name not in COLUMNS and meant and not re.fullmatch(r"split\d+", name):  # official splits, for probes
            raise ManifestError(f"{path}, column {name}: did you mean {meant[0]!r}?")
    if not set(MEDIA) & set(names):
        raise ManifestError(f"{path}: has no column video (or audio, or image), only {', '.join(names) or 'none'}")
