"""States of an index that is served while ``vatt index`` changes it, and what is kept of each.

The newest is searched; pages that are open go on with the one that they were shown.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vatt.errors import UserError, printable
from vatt.search import Index, SearchError
from vatt.search.lance import LanceCopy
from vatt.serve.collection import Collection

Key = TypeVar("Key")
Value = TypeVar("Value")

_LOOK = 3.0  # seconds between two looks at whether the index has changed
_PATIENCE = 1.0  # seconds that a search waits for such a look; then it searches in what was there before
_VIEWS = 3  # states of the index that are kept: pages that are open ask for what they were shown
_PICTURES = 64 << 20  # bytes of pictures that are kept
_log = logging.getLogger(__name__)


class Kept(Generic[Key, Value]):
    """The values that were used last, of a total size of ``most``."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def keep(self, key: Key, value: Value, size: int) -> None:
        if key in self._values:
            self._size -= self._values.pop(key)[1]
        self._values[key] = value, size
        self._size += size
        while self._size > self._most:
            _, (_, gone) = self._values.popitem(last=False)
            self._size -= gone


class View:
    """An index as it was when it was opened, and what was made of it."""

    def __init__(self, index: Index) -> None:
        self.index, self.collection = index, Collection(index)
        self.pictures = Kept[int, bytes](_PICTURES // _VIEWS)
        self.coming: dict[int, asyncio.Future[bytes]] = {}
        self.maps: dict[str, asyncio.Future[bytes]] = {}

    @property
    def version(self) -> str:
        """Part of addresses that a browser keeps."""
        return self.collection.version


class Views:
    """The states of an index: ``now`` is the newest."""

    def __init__(self, index: Index) -> None:
        self.now = View(index)
        self._store = index.copy.uri if isinstance(index.copy, LanceCopy) else None
        self._kept = {self.now.version: self.now}
        self._look_at = 0.0  # when to look whether there is a newer one

    async def newest(self) -> View:
        """The index as ``vatt index`` has left it, which is looked for now and then."""
        if time.monotonic() >= self._look_at:
            self._look_at = math.inf
            look = asyncio.ensure_future(run_in_threadpool(self._look))
            await asyncio.wait({look}, timeout=_PATIENCE)
        return self.now

    def shown(self, version: str | None) -> View:
        """The state that a page was shown; None: the newest. Raises HTTPException: it is not kept any more."""
        if version is None:
            return self.now
        if (view := self._kept.get(version)) is None:
            raise HTTPException(410, "the index has changed since; search again")
        return view

    def _look(self) -> None:
        began = time.monotonic()
        try:
            new = self.now.index.again()
            if new is not None and new.about.model != self.now.index.about.model:
                raise SearchError(f"{new.path}: was made anew with another model; start the server again")
            if new is not None:
                self._open_copy(new, is_new=True)
                view = View(new)
                kept = [*self._kept.values()][1 - _VIEWS :]
                self._kept = {one.version: one for one in (*kept, view)}
                self.now = view
            elif self.now.index.copy is None:  # `vatt index` writes the copy after the index
                self._open_copy(self.now.index, is_new=False)
        except (UserError, OSError) as error:  # as while it is written: what was there is still served
            _log.warning("%s", printable(error))
        finally:
            now = time.monotonic()
            self._look_at = now + max(_LOOK, 20 * (now - began))  # a large index is not read all the time

    def _open_copy(self, index: Index, is_new: bool) -> None:
        """Searches by the copy that the server was started with, once that is one of the index as it is now."""
        if self._store is None:
            return
        try:
            index.copy = LanceCopy.open(self._store, index)
            _log.info("%s: is the copy of %s as it is now", printable(self._store), printable(index.path))
        except (UserError, OSError) as error:
            if is_new:  # told once a change, and tried at each look
                _log.warning("%s; until then every window is looked at", printable(error))
