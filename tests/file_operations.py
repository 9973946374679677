"""Stops what a function does to files at its n-th operation: killed there, or told that the disk is full.

Operations are what Python's audit hooks see (opening to write, making, renaming and removing), each write to a file
that `Path.open` has opened, and each fsync. Whoever is killed does nothing more: no clean-up changes a file after that.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.rmtree", "ctypes.dlsym")
_NEEDS_ROOM = ("open", "os.mkdir", "write", "os.fsync")
_watcher: Callable[[str], None] | None = None  # hooks stay for good, so there is one


class Killed(BaseException):
    """The process would have ended here."""


def _hook(event: str, arguments: tuple) -> None:
    if _watcher is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        _watcher("open")
    elif event in _CHANGES:
        _watcher(event)


sys.addaudithook(_hook)


class _Writing:
    """A file whose writes are operations; what was written is in the file at once, as far as a kill goes."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, content) -> int:
        _watcher and _watcher("write")
        count = self.file.write(content)
        self.file.flush()
        return count

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


@contextmanager
def _watched(watcher: Callable[[str], None]) -> Iterator[None]:
    global _watcher
    opened = Path.open

    def open_watched(path, mode="r", *arguments, **options):
        file = opened(path, mode, *arguments, **options)
        return _Writing(file) if set(mode) & set("wax+") else file

    def fsync(handle):
        watcher("os.fsync")

    with mock.patch.object(Path, "open", open_watched), mock.patch.object(os, "fsync", fsync):
        _watcher = watcher
        try:
            yield
        finally:
            _watcher = None


def killed_at(number: int, do: Callable[[], object]) -> bool:
    """Does it, and kills it before its operation of that number, from 0 on. Whether it came so far."""
    seen = 0

    def watcher(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen > number:
            raise Killed

    with suppress(Killed), _watched(watcher):
        do()
    return seen > number


def full_at(number: int, do: Callable[[], object], raised: type[Exception]) -> Exception | None:
    """Does it, and has no room for its operation of that number that needs some, nor for any after it. The error of
    that type with which it ends; None if it did not come so far."""
    seen = 0

    def watcher(operation: str) -> None:
        nonlocal seen
        seen += operation in _NEEDS_ROOM
        if operation in _NEEDS_ROOM and seen > number:
            raise OSError(errno.ENOSPC, "No space left on device")

    try:
        with _watched(watcher):
            do()
    except raised as error:
        return error
    assert seen <= number, "nothing was told of the full disk"
    return None
