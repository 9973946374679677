"""JSON from and for files: what anybody may have written is read bounded in size, depth and digits, and strictly."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vatt.errors import UserError

MOST_JSON = 16 * 2**20  # bytes of a JSON file, where its reader does not say otherwise; objects take ten times as many
_DEEPEST, _MOST_DIGITS, _MOST_CONTAINERS = 64, 40, 2_000_000
_BESIDE_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as JSON in one line: letters as they are, but everything escaped if a name of a file is not UTF-8.

    Such names come as lone surrogates (`os.fsdecode`), which no UTF-8 file can hold; escaped they come back the same.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=default)
    return text


class JSONError(UserError, ValueError):
    """JSON that cannot be used. The message names the file and the place in it: line and column, or the key."""


def read_json(
    path: str | Path, expected: type | None = None, *, most: int = MOST_JSON, surrogates: bool = False
) -> Any:
    """The content of a JSON file that may come from anybody: bounded in size, depth and digits, and strict.

    NaN, infinities (also 1e999) and an object with the same key twice are refused, which Python lets pass.

    Args:
        expected: dict or list, if it must be an object or an array.
        most: bytes that the file may have.
        surrogates: whether strings may hold lone surrogates, as names of files that are not UTF-8 do (`json_line`).

    Raises:
        JSONError: not JSON within these bounds; it is a ValueError, too.
        OSError: the file is not there or cannot be read.
    """
    return parse_json(read_bounded(path, most), path, expected, surrogates=surrogates)


def read_bounded(path: str | Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes. Raises OSError, or JSONError: it has more, or is a pipe."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise JSONError(f"{path}: is not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise JSONError(f"{path}: has more than {most:,} bytes, too many for such a file")
    return content


def parse_json(
    text: str | bytes,
    where: str | Path,
    expected: type | None = None,
    *,
    surrogates: bool = False,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """As `read_json`, of a text that was read already: a line, an entry of another file.

    Args:
        where: what an error names: the file, and the line or the entry.
        constant: the value of NaN, Infinity and -Infinity, where they are not refused.
    """
    try:
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JSONError(f"{where}: is not UTF-8 from byte {error.start} on") from error
    _check_nesting(content, where)
    refused: list[_Refused] = []

    def refuse(why: str) -> _Refused:
        refused.append(_Refused(why))
        return refused[-1]

    def integer(digits: str) -> Any:
        if len(digits) > _MOST_DIGITS:
            return refuse(f"a number of {len(digits)} digits")
        return int(digits)

    def real(digits: str) -> Any:
        value = float(digits)
        return value if math.isfinite(value) else refuse(f"{digits[:20]} is too large for a number")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            twice, _ = Counter(key for key, _ in items).most_common(1)[0]
            found[twice] = refuse("stands there twice")
        return found

    try:
        value = json.loads(
            decoded,
            parse_int=integer,
            parse_float=real,
            parse_constant=constant or (lambda name: refuse(f"{name} is no number")),
            object_pairs_hook=pairs,
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise JSONError(f"{where}: is not JSON: {error}") from error
    if refused or (not surrogates and _may_hold_surrogates(content)):
        for place, found in _walk_json(value, ""):
            if isinstance(found, _Refused):
                raise JSONError(f"{where}: {place or 'the value'}: {found.why}")
            if not surrogates and isinstance(found, str) and _has_surrogate(found):
                raise JSONError(f"{where}: {place or 'the value'}: holds half a character (a lone surrogate)")
    if expected is not None and type(value) is not expected:
        wanted = "an object {...}" if expected is dict else "an array [...]"
        raise JSONError(f"{where}: expected {wanted}, found {_shown(value)}")
    return value


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe, too, at once: without this, until somebody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Refused:
    """Stands in a parsed value for what was refused, so that a walk can tell where that is."""

    def __init__(self, why: str) -> None:
        self.why = why


def _check_nesting(content: bytes, where: str | Path) -> None:
    """Before the parser, which fills memory with empty lists, and calls itself for each bracket."""
    if content.count(b"[") + content.count(b"{") <= _DEEPEST:
        return
    outside = re.sub(rb'"[^"]*"?', b"", re.sub(rb"\\.", b"", content, flags=re.DOTALL))  # of strings
    brackets = outside.translate(None, _BESIDE_BRACKETS)
    if len(brackets) > 2 * _MOST_CONTAINERS:
        raise JSONError(f"{where}: has more than {_MOST_CONTAINERS:,} objects and arrays")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            raise JSONError(f"{where}: is nested deeper than {_DEEPEST} levels")


def _may_hold_surrogates(content: bytes) -> bool:
    return b"\\ud" in content or b"\\uD" in content or b"\xed" in content


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _walk_json(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Keys and values with their places, such as ``model.classes[3]``. As deep as `_check_nesting` lets pass."""
    yield place, value
    if isinstance(value, dict):
        for key, item in value.items():
            name = key if len(key) <= 80 else f"{key[:80]}..."
            inner = f"{place}.{name}" if place else name
            yield f"a key of {place or 'the object'}", key
            yield from _walk_json(item, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk_json(item, f"{place}[{number}]")


def _shown(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
