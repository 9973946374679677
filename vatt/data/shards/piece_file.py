"""A piece as an open file: what a decoder reads of it, and no more, is read from where it lies."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from vatt.data.decode import MediaError
from vatt.data.shards.storage import Unavailable


class PieceFile(io.RawIOBase):
    """Seekable, for reading.

    Args:
        read: gives (offset, size) bytes of the piece, or raises Unavailable.
        size: of the piece.
        name: for messages.
        close: called once at the end.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, name: str, close: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__()
        self._read, self._size, self._name, self._close = read, size, name, close
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Raises MediaError: the bytes cannot be had."""
        left = max(0, self._size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if not size:
            return b""
        try:
            found = self._read(self._at, size)
        except Unavailable as error:
            raise MediaError(self._name, "shard", error.reason) from error
        self._at += size
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()
