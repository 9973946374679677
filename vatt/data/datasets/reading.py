"""Reading the published annotation files: tables, lists and JSON, with the file and line of every entry."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from vatt.data.captions import json_constant
from vatt.data.clips import ManifestError
from vatt.json_files import JSONError, parse_json

CHUNK = 2**24  # characters read at a time
_DECODER = json.JSONDecoder()


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises ManifestError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error


def lines_of(path: Path) -> list[tuple[str, str]]:
    """(where, line) of each line that is not empty, stripped; ``where`` is "FILE, line N", for messages."""
    lines = enumerate(read_text(path).split("\n"), start=1)  # not at the line separators inside of a text
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


def table(path: Path, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """(where, row) of a CSV file with a header.

    Raises:
        ManifestError: it cannot be read, lacks one of ``columns``, or a row has more or fewer values than the header.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    header = header_of(path)
    if missing := set(columns) - set(header):
        raise ManifestError(f"{path}: has no column {', '.join(sorted(missing))}")
    if twice := [name for number, name in enumerate(header) if name and name in header[:number]]:
        raise ManifestError(f"{path}, column {twice[0][:40]}: is there twice")
    rows, begun = [], 1
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        begun = reader.line_num + 1
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ManifestError(f"{where}: expected {len(header)} values, as the header has")
            rows.append((where, row))
            begun = reader.line_num + 1
    except csv.Error as error:
        why = "a quotation mark is opened and not closed" if "end of data" in str(error) else error
        raise ManifestError(f"{path}, line {begun}: is not CSV: {why}") from error
    return rows


def records(path: Path, count: Sequence[int], meaning: str) -> list[tuple[str, list[str]]]:
    """(where, values) of a CSV file without header, in which a line has one of these counts of values.

    Lines that begin with # are comments.

    Raises:
        ManifestError: it cannot be read, or a line has another count of values.
    """
    found = []
    for where, line in lines_of(path):
        if line.startswith("#"):
            continue
        try:
            values = next(csv.reader([line], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise ManifestError(f"{where}: is not CSV: {error}") from error
        if len(values) not in count:
            raise ManifestError(f"{where}: expected {meaning}, got {len(values)} values")
        found.append((where, [value.strip() for value in values]))
    return found


def header_of(path: Path) -> list[str]:
    """The values of the first line of a CSV file; [] of an empty one."""
    first = read_text(path).partition("\n")[0].strip()
    try:
        return [value.strip() for value in next(csv.reader([first]), [])] if first else []
    except csv.Error as error:  # a value that is too long
        raise ManifestError(f"{path}, line 1: is not CSV: {error}") from error


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ManifestError if it cannot be read or is something else."""
    try:
        return parse_json(read_text(path), path, dict, surrogates=True, constant=json_constant)
    except JSONError as error:
        raise ManifestError(str(error)) from error


def json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, value) of the entries of the object in a JSON file, one after the other; the file may have any size.

    Raises:
        ManifestError: it cannot be read, is no object, or breaks off; the message names the file and the entry.
    """
    key: Any = None
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = _Text(file)
            text.take("{")
            while text.next() != "}":
                if key is not None:
                    text.take(",")
                key = text.value()
                if not isinstance(key, str):
                    raise ValueError(f"expected the name of an entry, got {key!r:.40}")
                text.take(":")
                yield key, text.value()
            text.take("}")
            if rest := text.next():
                raise ValueError(f"goes on after its end with {rest!r}")
    except (OSError, ValueError, RecursionError) as error:
        where = "" if key is None else f" at or after the entry {key!r:.60}"
        raise ManifestError(f"{path}: is not JSON{where}: {error}") from error


class _Text:
    """A file that is read in chunks: of the chunk in memory, ``text`` from ``at`` on is still to be parsed."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at = file, "", 0

    def more(self) -> bool:
        """Forgets what lies before ``at`` and reads at least as much as is left; False at the end of the file."""
        rest = self.text[self.at :]
        new = self.file.read(max(CHUNK, len(rest)))
        self.text, self.at = rest + new, 0
        return bool(new)

    def next(self) -> str:
        """The next character that is no space, which stays; "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> None:
        if (found := self.next()) != wanted:
            raise ValueError(f"expected {wanted!r}, got {found!r}" if found else f"ends where {wanted!r} should be")
        self.at += 1

    def value(self) -> Any:
        """The next value, of which the text may not be read whole yet."""
        self.next()
        while True:
            try:
                found, end = _DECODER.raw_decode(self.text, self.at)
            except ValueError:
                if not self.more():
                    raise
                continue
            if end < len(self.text) or not self.more():  # a number at the very end may go on
                self.at = end
                return found


def whole_number(text: str, where: str, what: str) -> int:
    """Raises ManifestError if ``text`` is none."""
    try:
        return int(text)
    except ValueError:
        raise ManifestError(f"{where}: {what} {text!r:.40} is not a whole number") from None


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
