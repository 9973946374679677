"""Pieces of remote shards on a local disk: a bounded folder that all processes of a machine share.

An entry is named by the SHA-256 of its content, which was checked when it came. Behind the content is the CRC-32 of
each block, by which what is read is checked again: a damaged entry is deleted and fetched again. Entries appear whole;
those used longest ago go first. A process may be killed anywhere.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vatt.errors import UserError

_BLOCK = 2**16  # bytes
FOLDER = "VATT_CACHE"  # the environment variable that moves all caches of the project
_FULL = 0.9  # share of the bound that is left when entries are deleted: it is done seldom, since it reads the folder
_LOOK = 0.005  # seconds between two looks at whether another process is done
_PATIENCE = 10.0  # seconds to wait for one that only writes
_ABANDONED = 600.0  # seconds after which an unfinished file counts as left by a killed process

logger = logging.getLogger(__name__)


class CacheError(UserError, OSError):
    """A cache folder that cannot be used. The message names the setting and the folder."""


def default_folder() -> Path:
    """Of the user: $VATT_CACHE/pieces, else ~/.cache/vatt/pieces."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "vatt") / "pieces"


class Damaged(Exception):
    """An entry with other bytes than were written."""


class Entry:
    """An open entry. It stays readable when it is deleted."""

    def __init__(self, path: Path, size: int) -> None:
        """Raises OSError: there is none. Damaged: its length is wrong."""
        self.path, self.size = path, size
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            table = os.pread(self._file, _table_bytes(size) + 1, size)
            if len(table) != _table_bytes(size):
                raise Damaged(f"{path}: its length is wrong")
            self._sums = memoryview(table).cast("I")
            with suppress(OSError):  # the folder may be of another user, who lets us read
                os.utime(path)  # used now
        except BaseException:
            self.close()
            raise

    def read(self, at: int, size: int) -> bytes:
        """A part of the content, checked. Raises Damaged."""
        first, last = at // _BLOCK, -(-(at + size) // _BLOCK)
        try:
            found = memoryview(os.pread(self._file, min(last * _BLOCK, self.size) - first * _BLOCK, first * _BLOCK))
        except OSError as error:
            raise Damaged(f"{self.path}: {error.strerror}") from error
        for number in range(first, last):
            block = found[(number - first) * _BLOCK : (number + 1 - first) * _BLOCK]
            if zlib.crc32(block) != self._sums[number]:
                raise Damaged(f"{self.path}: its content has changed")
        return bytes(found[at - first * _BLOCK : at - first * _BLOCK + size])

    def close(self) -> None:
        """Once."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _table_bytes(size: int) -> int:
    return 4 * -(-size // _BLOCK)


def _table(content: bytes) -> bytes:
    whole = memoryview(content)
    sums = (zlib.crc32(whole[at : at + _BLOCK]) for at in range(0, len(content), _BLOCK))
    return array("I", sums).tobytes()


class PieceCache:
    """The folder. A fault of its disk costs a warning and a request, never a clip.

    Args:
        folder: is made where it is not there.
        limit: most bytes; 0 keeps nothing.

    Raises:
        CacheError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.resolve(), limit
        self._warned = False
        if limit:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CacheError(f"data.cache: {folder}: cannot be made: {error.strerror}") from error

    def path(self, digest: str) -> Path:
        """Where the entry of this SHA-256 is, if it is there."""
        return self.folder / digest[:2] / digest

    def open(self, digest: str, size: int) -> Entry | None:
        """An entry, or None. One of another length than its content has is deleted."""
        if not self.limit:
            return None
        try:
            return Entry(self.path(digest), size)
        except Damaged as error:
            self.drop(digest, error)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(error)
        return None

    def drop(self, digest: str, why: Damaged) -> None:
        """Deletes a damaged entry."""
        logger.warning("%s: this piece of a shard is fetched again", why)
        with suppress(OSError):
            self.path(digest).unlink()

    def load(self, digest: str, size: int, fetch: Callable[[], bytes], seconds: float) -> Entry | bytes:
        """An entry; where it is missing, the bytes that ``fetch`` gives, which become the entry.

        While one process or thread fetches an entry, others that want it wait for it, ``seconds`` at most.
        """
        if (found := self.open(digest, size)) is not None:
            return found
        if not self.limit:
            return fetch()
        file = self._begin(digest, seconds)
        if file is None:
            return fetch()
        try:
            if (found := self.open(digest, size)) is not None:  # another was faster
                return found
            content = fetch()
            self._put(digest, content, file)
            return content
        finally:
            with suppress(OSError):
                if self._is(digest, file):
                    self._partly(digest).unlink()
            _unlock(file)

    def has(self, digest: str) -> bool:
        """Whether there is such an entry, unchecked."""
        return self.limit > 0 and self.path(digest).exists()

    @property
    def works(self) -> bool:
        """Whether entries are kept: it was not turned off, and its disk has not failed."""
        return self.limit > 0 and not self._warned

    def _partly(self, digest: str) -> Path:
        """Where an entry is written, and who writes it holds a lock."""
        return self.path(digest).with_name(f".{digest}.partly")

    def _begin(self, digest: str, seconds: float) -> int | None:
        """The open and locked file of an entry that is to be written; None if it cannot be had."""
        partly, end = self._partly(digest), time.monotonic() + seconds
        try:
            partly.parent.mkdir(exist_ok=True)
            while time.monotonic() < end:
                file = os.open(partly, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    while not _lock(file) and time.monotonic() < end:
                        time.sleep(_LOOK)
                    if self._is(digest, file):
                        return file
                except BaseException:
                    _unlock(file)
                    raise
                _unlock(file)  # it has become the entry, or is gone: look again
        except OSError as error:
            self._warn(error)
        return None

    def _is(self, digest: str, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._partly(digest)))
        except FileNotFoundError:
            return False

    def _put(self, digest: str, content: bytes, file: int) -> None:
        whole = content + _table(content)
        if len(whole) > self.limit:
            return
        try:
            self._reserve(len(whole))
            os.ftruncate(file, 0)  # of a process that was killed
            left = memoryview(whole)
            while left:
                left = left[os.pwrite(file, left, len(whole) - len(left)) :]
            os.replace(self._partly(digest), self.path(digest))
        except OSError as error:
            self._warn(error)

    def _reserve(self, size: int) -> None:
        """Counts bytes before they are written, so that all processes together stay below the bound.

        The count lies in a locked file. After a kill it may be too high, until the folder is read for the next time.
        """
        with self._locked() as file:
            text = os.pread(file, 32, 0)
            used = int(text) if text.isdigit() else self._evict(self.limit)
            if used + size > self.limit:
                used = self._evict(max(0, int(_FULL * self.limit) - size))
            os.pwrite(file, f"{used + size:020d}".encode(), 0)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        file = os.open(self.folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        end = time.monotonic() + _PATIENCE
        try:
            while not _lock(file) and time.monotonic() < end:  # without the lock, the count is only nearly right
                time.sleep(_LOOK)
            yield file
        finally:
            _unlock(file)

    def _evict(self, most: int) -> int:
        """Deletes what was used longest ago until ``most`` bytes are left; returns those left."""
        found: list[tuple[int, int, str]] = []
        now = time.time()
        for folder in os.scandir(self.folder):
            if not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):  # the lines of a data set, which are not counted
                    continue
                with suppress(FileNotFoundError):
                    about = entry.stat()
                    if entry.name.endswith(".partly") and now - about.st_mtime > _ABANDONED:
                        os.unlink(entry)
                    else:
                        found.append((about.st_mtime_ns, about.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= most:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        return used

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s: the cache of pieces cannot be used: %s", self.folder, error.strerror or error)


def _lock(file: int) -> bool:
    """Whether the file is now locked by us; the system frees locks of processes that are killed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: something may be fetched twice
        return True
    return True


def _unlock(file: int) -> None:
    """Closes a file, and frees it also where a process that was forked meanwhile holds it, too."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)
