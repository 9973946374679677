"""Pieces of remote shards: from the cache or by a request, with checksum and retries, and ahead of time."""

from __future__ import annotations

import hashlib
import os
import queue
import random
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from vatt.data.shards.cache import PieceCache
from vatt.data.shards.storage import Storage, Unavailable

ATTEMPTS = 5  # requests for one piece
_FIRST_WAIT = 0.5  # seconds between the first two of them; each wait is twice as long as the one before
_THREADS = 4  # requests of one process at a time, ahead of what it decodes
_AHEAD = 32  # pieces that are on their way or wait in memory; the oldest is forgotten


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
            raise Unavailable("the bytes have another SHA-256 than the index says", again=True)
        except Unavailable as error:
            if not error.again:
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
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None}

    def get(self, part: Part) -> bytes:
        """The bytes of a part. Raises Unavailable."""
        coming = self._of_process().take(part)
        if coming is None:
            return self._load(part)
        try:
            return coming.result(self.seconds)
        except FutureTimeout:
            raise Unavailable(f"did not come within {self.seconds:g} s") from None

    def expect(self, part: Part) -> None:
        """Begins to fetch a part that `get` is soon asked for. Returns at once."""
        self._of_process().expect(part, self._load)

    def _load(self, part: Part) -> bytes:
        found = self.cache.get(part.sha256, part.size)
        if found is None:
            found = fetch(self.storage, part.file, part.offset, part.size, part.sha256, self.seconds)
            self.cache.put(part.sha256, found)
        return found

    def _of_process(self) -> _Process:
        if self._process is None or self._process.number != os.getpid():  # threads do not survive a fork
            self._process = _Process()
        return self._process


class _Process:
    """What one process fetches ahead, and the threads that do it."""

    def __init__(self) -> None:
        self.number = os.getpid()
        self._lock = threading.Lock()
        self._coming: OrderedDict[Part, Future[bytes]] = OrderedDict()
        self._waiting: queue.SimpleQueue[tuple[Part, Any]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def take(self, part: Part) -> Future[bytes] | None:
        """The part if it was asked for before, and is not still waiting for its turn."""
        with self._lock:
            coming = self._coming.pop(part, None)
        return None if coming is None or coming.cancel() else coming

    def expect(self, part: Part, load: Any) -> None:
        with self._lock:
            if part in self._coming:
                return
            while len(self._coming) >= _AHEAD:
                self._coming.popitem(last=False)[1].cancel()
            self._coming[part] = Future()
            self._waiting.put((part, load))
            if len(self._threads) < _THREADS:  # daemons: a worker that ends waits for no server
                self._threads.append(threading.Thread(target=self._work, name="pieces", daemon=True))
                self._threads[-1].start()

    def _work(self) -> None:
        while True:
            part, load = self._waiting.get()
            with self._lock:
                coming = self._coming.get(part)
                if coming is None or coming.running() or coming.done():  # forgotten, or asked for twice
                    continue
                coming.set_running_or_notify_cancel()
            try:
                coming.set_result(load(part))
            except BaseException as error:  # it is raised where the part is wanted
                coming.set_exception(error)
