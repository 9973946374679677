"""Reading the published annotation files: tables, lists and JSON, with the place of every line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vatt.data.manifest import ManifestError


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises ManifestError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error


def lines_of(path: Path) -> list[tuple[str, str]]:
    """(place, line) of each line that is not empty, without spaces around it. The place is "FILE, line N"."""
    lines = enumerate(read_text(path).split("\n"), start=1)  # not at the line separators inside of a text
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


def table(path: Path, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """(place, row) of a CSV file with a header.

    Raises:
        ManifestError: it cannot be read, lacks one of ``columns``, or a row has more or fewer values than the header.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    if missing := set(columns) - set(header_of(path)):
        raise ManifestError(f"{path}: has no column {', '.join(sorted(missing))}")
    rows = []
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ManifestError(f"{place}: expected {len(header_of(path))} values, as the header has")
            rows.append((place, row))
    except csv.Error as error:
        raise ManifestError(f"{path}, line {reader.line_num}: is not CSV: {error}") from error
    return rows


def records(path: Path, count: Sequence[int], meaning: str) -> list[tuple[str, list[str]]]:
    """(place, values) of a CSV file without header, in which a line has one of these counts of values.

    Lines that begin with # are comments.

    Raises:
        ManifestError: it cannot be read, or a line has another count of values.
    """
    found = []
    for place, line in lines_of(path):
        if line.startswith("#"):
            continue
        try:
            values = next(csv.reader([line], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise ManifestError(f"{place}: is not CSV: {error}") from error
        if len(values) not in count:
            raise ManifestError(f"{place}: expected {meaning}, got {len(values)} values")
        found.append((place, [value.strip() for value in values]))
    return found


def header_of(path: Path) -> list[str]:
    """The values of the first line of a CSV file; [] of an empty one."""
    first = read_text(path).partition("\n")[0].strip()
    return [value.strip() for value in next(csv.reader([first]), [])] if first else []


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ManifestError if it cannot be read or is something else."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise ManifestError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: expected an object ({{...}}), got a {type(content).__name__}")
    return content


def whole_number(text: str, where: str, what: str) -> int:
    """Raises ManifestError if ``text`` is none."""
    try:
        return int(text)
    except ValueError:
        raise ManifestError(f"{where}: {what} {text!r} is not a whole number") from None


def files_in(annotations: Sequence[Path], pattern: str) -> list[Path]:
    """The given files; a folder stands for the files in it that match.

    Raises:
        ManifestError: there is no such file, or a folder has none that matches.
    """
    found: list[Path] = []
    for path in annotations:
        inside = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not inside:
            raise ManifestError(f"{path}: no file {pattern} in this folder")
        found += inside
    return found
