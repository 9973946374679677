"""Pieces of remote shards: from the cache or by a request, with checksum and retries, and ahead of time."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from vatt.data.shards.cache import Damaged, Entry, PieceCache
from vatt.data.shards.piece_file import PieceFile
from vatt.data.shards.storage import Storage, Unavailable

ATTEMPTS = 5  # requests for one piece
_FIRST_WAIT = 0.5  # seconds between the first two of them; each wait is twice as long as the one before
_THREADS = 8  # requests of one process at a time, ahead of what it decodes
_AHEAD = 64  # pieces that wait for their turn


@dataclass(frozen=True, slots=True)
class Part:
    """A range of bytes of a file of the storage, and its SHA-256 in hexadecimal digits."""

    file: str
    offset: int
    size: int
    sha256: str


def fetch(storage: Storage, file: str, offset: int, size: int | None, sha256: str | None, seconds: float) -> bytes:
    """The bytes, by as many requests as it takes within the limits.

    Args:
        size: None for the whole file.
        sha256: of the bytes; None does not check them.
        seconds: for all attempts and waits together.

    Raises:
        Unavailable: they cannot be had.
    """
    end, wait = time.monotonic() + seconds, _FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            found = storage.read(file, offset, size, max(0.1, end - time.monotonic()))
            if sha256 is None or hashlib.sha256(found).hexdigest() == sha256:
                return found
            raise Unavailable("the bytes have another SHA-256 than the index says", retry=True)
        except Unavailable as error:
            if not error.retry:
                raise
            pause = max(wait * random.uniform(0.5, 1.0), error.after)  # many processes shall not come back together
            if attempt == ATTEMPTS or time.monotonic() + pause >= end:
                raise Unavailable(f"{error.reason} (asked {attempt} times)") from error
        time.sleep(pause)
        wait *= 2
    raise AssertionError("unreachable")


class Fetcher:
    """The pieces of one remote data set for one process.

    Args:
        seconds: for one piece.
    """

    def __init__(self, storage: Storage, cache: PieceCache, seconds: float) -> None:
        self.storage, self.cache, self.seconds = storage, cache, seconds
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ahead": None}

    def open(self, part: Part, name: str) -> BinaryIO:
        """A part as a file; ``name`` is for messages. Raises Unavailable; reading raises MediaError."""
        content = _Content(self, part)
        return cast(BinaryIO, PieceFile(content.read, part.size, name, content.close))

    def load(self, part: Part) -> Entry | bytes:
        """From the cache, or by requests. Raises Unavailable."""
        return self.cache.load(part.sha256, part.size, lambda: self.ask(part), self.seconds)

    def ask(self, part: Part) -> bytes:
        """By requests. Raises Unavailable."""
        return fetch(self.storage, part.file, part.offset, part.size, part.sha256, self.seconds)

    def expect(self, part: Part) -> None:
        """Begins to fetch a part that some process of this machine soon asks for. Returns at once.

        It goes into the cache, so without one nothing is done.
        """
        if not self.cache.works or self.cache.has(part.sha256):
            return
        if self._ahead is None or self._ahead.process != os.getpid():  # threads do not survive a fork
            self._ahead = _Ahead()
        self._ahead.add(self, part)


class _Content:
    """The bytes of a part, in memory or in an entry of the cache, which is fetched again where it is damaged."""

    def __init__(self, fetcher: Fetcher, part: Part) -> None:
        self.fetcher, self.part = fetcher, part
        self.held = fetcher.load(part)

    def read(self, at: int, size: int) -> bytes:
        if isinstance(self.held, Entry):
            try:
                return self.held.read(at, size)
            except Damaged as error:
                self.close()
                self.fetcher.cache.drop(self.part.sha256, error)
                self.held = self.fetcher.ask(self.part)
        return self.held[at : at + size]

    def close(self) -> None:
        if isinstance(self.held, Entry):
            self.held.close()


class _Ahead:
    """What one process fetches ahead, and the threads that do it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Fetcher, Part]] = deque(maxlen=_AHEAD)  # the oldest is forgotten
        self._threads: list[threading.Thread] = []

    def add(self, fetcher: Fetcher, part: Part) -> None:
        with self._changed:
            self._waiting.append((fetcher, part))
            if len(self._threads) < _THREADS:  # daemons: a process that ends waits for no server
                self._threads.append(threading.Thread(target=self._work, name="pieces", daemon=True))
                self._threads[-1].start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                fetcher, part = self._waiting.popleft()
            if not fetcher.cache.has(part.sha256):
                with suppress(Unavailable):  # it is asked for again, and told, where it is wanted
                    if isinstance(found := fetcher.load(part), Entry):
                        found.close()
