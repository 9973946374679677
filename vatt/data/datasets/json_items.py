"""The entries of a JSON object that is too large to be read at once, as HowTo100M's caption.json is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vatt.data.manifest import ManifestError

CHUNK = 2**24  # characters read at a time
_DECODER = json.JSONDecoder()


class _Text:
    """The part of a file that is being looked at: ``text`` from ``at`` on."""

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
    except (OSError, ValueError) as error:
        place = "" if key is None else f" at or after the entry {key!r:.60}"
        raise ManifestError(f"{path}: is not JSON{place}: {error}") from error
