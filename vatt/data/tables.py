"""The rows of a manifest, as they are in the file: .csv, .tsv, .jsonl (.ndjson) or .parquet, and what is wrong with it.

Read strictly: a column that is there twice, a quotation mark that is not closed, text that is not UTF-8 and a column of
words that is named as one of media files are refused with the row and the column, never guessed.
"""

from __future__ import annotations

import csv
import difflib
import math
import os
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vatt.data.captions import json_constant
from vatt.data.clips import ManifestError
from vatt.extras import install
from vatt.files import KINDS, kind_of
from vatt.json_files import JSONError, parse_json

MEDIA = tuple(KINDS)  # the columns that name a file; a row fills one of them
COLUMNS = (*MEDIA, "start", "end", "caption", "captions", "label", "split")

Row = dict[str, Any]  # column -> value

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NAN = ("nan", "NaN")  # as pandas and NumPy write that there is no value
_EXACT = (*MEDIA, "start", "end")  # columns in which text that says so is refused
_LINES = (".jsonl", ".ndjson")
_LONGEST = 2**28  # bytes of a line of JSON, or characters of a value: the captions of a film in one
_HEAD = 1 << 16  # characters in which the first line is looked for
_LOOKED_AT = 50  # rows at the start, that tell what a column is
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that os.fsdecode kept


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(line, row) of a manifest, with values as they are in the file; ``line`` is "line N" (.parquet: "row N").

    Rows without any value are left out. NaN is no value, nor is the word in a table, but for names and times.

    Raises:
        ManifestError: it cannot be read, a line does not parse, or a column is missing, misspelt, there twice, or holds
            words where names of files are due.
    """
    suffix = path.suffix.lower()
    if suffix in _SEPARATORS:
        rows = _table_rows(path, _SEPARATORS[suffix])
    elif suffix in _LINES:
        rows = _json_rows(path)
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        raise ManifestError(f"{path}: a manifest ends in .csv or .jsonl (or .tsv, .parquet)")
    try:
        first = list(islice(rows, _LOOKED_AT))
        _check_media(path, first)
        yield from chain(first, rows)
    except (OSError, UnicodeError) as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from error


def _table_rows(path: Path, separator: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(_LONGEST)
    with path.open("rb") as binary:
        wide = binary.read(2) in (b"\xff\xfe", b"\xfe\xff")  # as spreadsheets write "Unicode text"
    coding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
    with path.open(newline="", encoding=coding, errors=errors) as file:
        _check_separator(path, file.read(_HEAD), separator)
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, strict=True)
        columns: list[str] | None = None
        begun = 1
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                why = "a quotation mark is opened and not closed" if "end of data" in str(error) else error
                raise ManifestError(f"{path}, line {begun}: is no row of a table: {why}") from error
            line, begun = begun, reader.line_num + 1
            if values is None:
                break
            if not any(value.strip() for value in values):
                continue
            if columns is None:
                columns = values
                _check_columns(path, columns)
                continue
            if len(values) > len(columns):
                raise ManifestError(f"{path}, line {line}: more values than columns")
            row: Row = {
                name: None if value in _NAN and name not in _EXACT else value
                for name, value in zip(columns, values, strict=False)
            }
            _check_text(path, line, row)
            if reader.line_num > line:
                _check_quotes(path, line, row, columns, separator)
            yield f"line {line}", row
        if columns is None:
            _check_columns(path, [])


def _check_quotes(path: Path, line: int, row: Row, columns: list[str], separator: str) -> None:
    """A value of several lines must not hold whole rows: then a quotation mark is not closed, and one further below is
    taken for its end."""
    places = [number for number, name in enumerate(columns) if name in MEDIA]
    for name, value in row.items():
        for inner in (value or "").split("\n")[1:]:
            parts = inner.split(separator)
            files = [parts[at].strip() for at in places if at < len(parts)]
            if len(parts) >= len(columns) - 1 > 0 and any(kind_of(Path(one)) for one in files):
                raise ManifestError(
                    f"{path}, line {line}, column {name}: goes on over the next rows; a quotation mark is not closed"
                )


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    known: set[tuple[str, ...]] = set()  # columns that were checked: nearly all rows have the same ones
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_LONGEST + 1):
            number += 1
            if len(raw) > _LONGEST:
                raise ManifestError(f"{path}, line {number}: has more than {_LONGEST:,} bytes")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            text = raw.decode("utf-8", "surrogateescape")
            try:
                row = parse_json(text, f"{path}, line {number}", dict, surrogates=True, constant=json_constant)
            except JSONError as error:
                raise ManifestError(str(error)) from error
            if _NOT_UTF8.search(text):
                _check_text(path, number, row)
            if (names := tuple(row)) not in known:
                _check_columns(path, list(names))
                known.add(names)
            if any(value is not None for value in row.values()):
                yield f"line {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ManifestError(f"{path}: reading it takes pyarrow ({install('parquet')}); or give a .jsonl") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            _check_columns(path, list(file.schema_arrow.names))
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    row = {name: None if value != value else value for name, value in values.items()}  # NaN
                    if any(value is not None for value in row.values()):
                        yield f"row {number}", row
    except (ArrowException, ValueError, OverflowError) as error:  # ValueError: dates that Python does not have
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: cannot be read as Parquet after row {number}: {error}") from error


def _check_columns(path: Path, names: list[str]) -> None:
    """The video column must be there, none twice, and no other column may be a misspelling of one of ours."""
    for number, name in enumerate(names):
        if name and name in names[:number]:
            raise ManifestError(f"{path}, column {name[:40]}: is there twice")
        meant = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.8)
        if name not in COLUMNS and meant and not re.fullmatch(r"split\d+", name):  # official splits, for probes
            raise ManifestError(f"{path}, column {name[:40]}: did you mean {meant[0]!r}?")
    if not set(MEDIA) & set(names):
        columns = ", ".join(name[:40] for name in names[:20]) or "none"
        raise ManifestError(f"{path}: has no column video (or audio, or image), only {columns}")


def _check_separator(path: Path, head: str, separator: str) -> None:
    """A .csv as spreadsheets write it where the comma is the decimal point, or a .tsv that is none."""
    text = head.lstrip().partition("\n")[0]
    line = 1 + head[: len(head) - len(head.lstrip())].count("\n")

    def names_media(other: str) -> bool:
        return not {part.strip().strip('"').lower() for part in text.split(other)}.isdisjoint(MEDIA)

    for other, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
        if not names_media(separator) and names_media(other):
            raise ManifestError(
                f"{path}, line {line}: its columns are separated by {name}; a .csv has commas, a .tsv tabs: "
                "save it again with those, or as .jsonl or .parquet"
            )


def _check_text(path: Path, line: int, row: Row) -> None:
    """Bytes that are not UTF-8 may stand in names of files alone."""
    for name, value in row.items():
        if name not in MEDIA and not str(value).isascii() and _NOT_UTF8.search(f"{name}{value}"):
            raise ManifestError(f"{path}, line {line}, column {name}: is not UTF-8")


def _check_media(path: Path, rows: list[tuple[str, Row]]) -> None:
    """Columns named video, audio and image must name files: a column of words is told once, not in each row."""
    for kind in MEDIA:
        filled = [(line, value) for line, row in rows if not is_empty(value := row.get(kind))]
        words = [(line, value) for line, value in filled if not _names_file(path, value)]
        if 2 * len(words) > len(filled):
            line, value = words[0]
            raise ManifestError(
                f"{path}, {line}, column {kind}: {shown(value)} is no file; the columns video, audio and image name "
                f"media files: give a column of other things another name, such as {kind}_text"
            )
    both = [line for line, row in rows if sum(not is_empty(row.get(kind)) for kind in MEDIA) > 1]
    if 2 * len(both) > len(rows):
        names = ", ".join(kind for kind in MEDIA if any(not is_empty(row.get(kind)) for _, row in rows))
        raise ManifestError(
            f"{path}, {both[0]}, column {names}: only one may be filled; a row is one file, a video has its sound"
        )


def _names_file(path: Path, value: Any) -> bool:
    return isinstance(value, str) and (
        kind_of(Path(value.strip())) is not None or os.path.isfile(path.parent / value.strip())
    )


def is_empty(value: Any) -> bool:
    """Whether there is no value: null, NaN, or text of spaces alone."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    names = {dict: "an object", list: "a list", bool: "true or false", bytes: "bytes"}
    text = names.get(type(value)) or repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
