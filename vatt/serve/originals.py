"""The files of an index as they were indexed: what has been swapped or changed since is not sent.

A file is opened once, looked at, and read through that opening: another file that is renamed or linked to its place in
between is not sent. That is true of names only: what is written into the file itself while it is sent goes out, too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException

from vatt.search import IndexedFile
from vatt.serve.collection import may_be_sent

CHANGED = "this file has changed since it was indexed; run vatt index again"
_HASHED = 1 << 20  # bytes at once
_DIGESTS = 10_000  # that are remembered, about a kilobyte each
_Identity = tuple[int, int, int, int, int]  # device, inode, size, and times of content and of inode


@dataclass(frozen=True)
class Original:
    """An open file: ``path`` leads to it as long as it is open, in processes of this user, too."""

    number: int
    status: os.stat_result

    @property
    def path(self) -> Path:
        """By which it can be opened again."""
        return Path(f"/proc/{os.getpid()}/fd/{self.number}")

    def close(self) -> None:
        """Closes it."""
        os.close(self.number)


class Originals:
    """Opens files of an index, and remembers the digests of those that had to be read for it."""

    def __init__(self) -> None:
        self._digests: OrderedDict[_Identity, Future[str]] = OrderedDict()
        self._lock = threading.Lock()  # of the table alone: a slow file is waited for by those who ask for it

    def open(self, file: IndexedFile) -> Original:
        """A file with the content that was indexed: with its size and time, where no link leads to it; else its digest
        is compared, which reads it, once.

        Raises:
            HTTPException: it is no media, is not there any more, or has changed.
        """
        if file.path is None or not may_be_sent(file):
            raise HTTPException(404, "this file cannot be sent")
        try:
            number = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
        except (OSError, ValueError) as error:
            raise HTTPException(404, "the file is not there any more") from error
        try:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise HTTPException(404, "this is no regular file")
            if status.st_size != file.size or not (
                (status.st_mtime_ns == file.mtime and _is_itself(number, file))
                or (file.sha256 and self._digest(number, status) == file.sha256)
            ):
                raise HTTPException(409, CHANGED)
        except BaseException:
            os.close(number)
            raise
        return Original(number, status)

    @contextmanager
    def opened(self, file: IndexedFile) -> Iterator[Original]:
        """As `open`, and closes it."""
        found = self.open(file)
        try:
            yield found
        finally:
            found.close()

    def _digest(self, number: int, status: os.stat_result) -> str:
        own = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        with self._lock:
            known = self._digests.get(own)
            digest = self._digests.setdefault(own, known or Future())
            self._digests.move_to_end(own)
            if len(self._digests) > _DIGESTS:
                self._digests.popitem(last=False)
        if known is None:  # so that a file is read once
            try:
                digest.set_result(_sha256(number))
            except BaseException as error:
                with self._lock:
                    if self._digests.get(own) is digest:
                        del self._digests[own]
                digest.set_exception(error)
        return digest.result()


def _sha256(number: int) -> str:
    digest, at = hashlib.sha256(), 0
    while part := os.pread(number, _HASHED, at):
        digest.update(part)
        at += len(part)
    return digest.hexdigest()


def _is_itself(number: int, file: IndexedFile) -> bool:
    """Whether no link below the source led to an open file."""
    whole = str(file.path)
    root = whole.removesuffix(file.name)
    here = os.path.join(os.path.realpath(root), file.name) if root != whole else whole
    return os.readlink(f"/proc/self/fd/{number}") == here
