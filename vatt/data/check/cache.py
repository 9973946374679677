"""The results of a check so far, in a file: one that was stopped goes on, and tries changed files again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from vatt.json_files import json_line

_FORMAT = 1  # of the lines; a file of another one is not read

_log = logging.getLogger(__name__)


class ResultCache:
    """A JSON line [key, result] for each thing that was tried. Use it as a context.

    A line that a kill cut short is not read. Where the file cannot be written, or another check of the same data is at
    work, nothing is kept.

    Args:
        path: None keeps nothing.

    Attributes:
        found: how many results an earlier check has left.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        self._file: TextIO | None = None
        self.found = 0

    def __enter__(self) -> ResultCache:
        if self.path is None:
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+", encoding="utf-8", errors="replace")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            _log.warning("%s: what was tried is not kept: %s", self.path, error.strerror or error)
            return self
        file.seek(0)
        lines = file.read().split("\n")
        if lines[0] != str(_FORMAT):
            file.truncate(0)
            file.write(f"{_FORMAT}\n")
            lines = []
        elif lines[-1]:  # cut short by a kill
            file.write("\n")
        for line in lines[1:]:
            with suppress(ValueError, TypeError, RecursionError):
                key, value = json.loads(line)
                self._known[key] = value
        self.found, self._file = len(self._known), file
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            if not self._known:  # refused before anything was tried
                self.remove()
            with suppress(OSError):  # a full disk
                self._file.close()

    def known(self, key: str) -> Any:
        """What came of it before; None if it was not tried."""
        return self._known.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keeps what came of it."""
        if self._file is None:
            return
        self._known[key] = value
        try:
            self._file.write(json_line([key, value]) + "\n")
            self._file.flush()
        except OSError as error:
            _log.warning("%s: what was tried is not kept: %s", self.path, error.strerror or error)
            self._file = None

    def remove(self) -> None:
        """All is done: the next check begins anew."""
        if self._file is not None and self.path is not None:
            self.path.unlink(missing_ok=True)


def key_of(path: Path, *about: object) -> str:
    """A file as it is now, and what else the result depends on."""
    try:
        status = path.stat()
        seen = [status.st_size, status.st_mtime_ns]
    except OSError:
        seen = []
    return json.dumps([os.fspath(path), seen, *about])


def cache_path(data: Path) -> Path:
    """Where the results of a data set are kept: in the folder of the environment variable VATT_CACHE, else in
    ~/.cache/vatt."""
    name = f"check-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}.jsonl"
    try:
        return Path(os.environ.get("VATT_CACHE") or Path.home() / ".cache" / "vatt") / name
    except RuntimeError:  # no home, as for an unknown user in a container
        return Path(tempfile.gettempdir()) / "vatt-cache" / name
