"""Where shards lie: a folder of this machine, a web server, or any store that fsspec knows (s3://, gs://, ...).

Each place reads a range of bytes of one of its files, and never more than that range.
"""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.request
from collections import OrderedDict
from typing import Any, NoReturn, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec
import urllib3
from fsspec.core import url_to_fs
from urllib3.exceptions import HTTPError, IncompleteRead, NewConnectionError, TimeoutError

from vatt.extras import install

CONNECT, READ = 10.0, 10.0  # seconds to connect, and without a byte, after which a server counts as stalled
_BLOCK = 2**18  # bytes of an answer that are read at once
_CONNECTIONS = 16  # that one process keeps open to a server
_OPEN_FILES = 64  # of local shards that are kept open; a process may have 1,024
_LATER = {408, 425, 429, 500, 502, 503, 504}  # statuses that may change when asked again


class Unavailable(Exception):
    """Bytes that could not be had: why, and whether asking again may help, ``after`` so many seconds."""

    def __init__(self, reason: str, *, retry: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.after = reason, retry, after


class Storage(Protocol):
    """A folder of shards. It may be sent to other processes and be used by several threads.

    Attributes:
        name: the folder or URL, for messages.
        remote: whether reading costs a request.
    """

    name: str
    remote: bool

    def read(self, file: str, offset: int, size: int | None, seconds: float) -> bytes:
        """``size`` bytes from ``offset`` on, or the whole file for None. Raises Unavailable."""
        ...


def is_url(place: str) -> bool:
    """Whether it is an address, such as s3://bucket/shards, rather than a path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", str(place), re.IGNORECASE) is not None


def open_storage(place: str) -> Storage:
    """The folder or URL. Nothing is read. Raises Unavailable: an address of a kind that is not installed."""
    if not is_url(place):
        return LocalFolder(place)
    if urlsplit(place).scheme.lower() in ("http", "https"):
        return WebFolder(place)
    return StoreFolder(place)


class LocalFolder:
    """A folder of this machine. Files are read in place, with `os.pread`: forked processes share no position."""

    remote = False

    def __init__(self, path: str) -> None:
        self.name = str(path)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.name = state["name"]
        self._start()

    def path(self, file: str) -> str:
        """The path of one of its files."""
        return os.path.join(self.name, file)

    def read(self, file: str, offset: int, size: int | None, seconds: float = 0.0) -> bytes:
        """See `Storage`; a local read has no time limit."""
        with self._lock:  # nobody closes the file meanwhile
            handle = self._open(file)
            try:
                if size is None:
                    size = os.fstat(handle).st_size - offset
                found = os.pread(handle, size, offset)
                while 0 < len(found) < size and (more := os.pread(handle, size - len(found), offset + len(found))):
                    found += more  # a read may stop at 2 GiB or for a signal
            except OSError as error:
                raise Unavailable(f"cannot be read: {error.strerror}") from error
        if len(found) != size:
            raise Unavailable(f"ends at byte {offset + len(found)}, before the end of the piece, {offset + size}")
        return found

    def expect(self, file: str, offset: int, size: int) -> None:
        """Tells the system that these bytes are wanted soon."""
        if hasattr(os, "posix_fadvise"):
            with self._lock:
                try:
                    os.posix_fadvise(self._open(file), offset, size, os.POSIX_FADV_WILLNEED)
                except (Unavailable, OSError):
                    return  # the read itself will say so

    def check(self, file: str) -> None:
        """Raises Unavailable: there is no such file, or it cannot be opened."""
        with self._lock:
            self._open(file)

    def size(self, file: str) -> int:
        """Bytes of a file. Raises Unavailable."""
        try:
            return os.stat(self.path(file)).st_size
        except OSError as error:
            raise Unavailable(
                "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
            ) from error

    def _open(self, file: str) -> int:
        """A descriptor; those used last stay open."""
        handle = self._files.pop(file, None)
        if handle is None:
            try:
                handle = os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block
            except FileNotFoundError:
                raise Unavailable("no such file") from None
            except OSError as error:
                raise Unavailable(f"cannot be opened: {error.strerror}") from error
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files[file] = handle
        return handle


class WebFolder:
    """A folder of a web server: one request with a Range for each read, over connections that stay open.

    An answer is judged by its status and its Content-Range before its body is read: a server that ignores Range would
    send a whole shard for each clip.
    """

    remote = True

    def __init__(self, url: str) -> None:
        self.url = urlsplit(url)
        self.name = url.rstrip("/")
        self._pool: tuple[int, urllib3.PoolManager] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "name": self.name, "_pool": None}

    def address(self, file: str) -> str:
        """The URL of a file; a query of the folder's URL, such as a signature, stays behind it."""
        return urlunsplit(self.url._replace(path=f"{self.url.path.rstrip('/')}/{quote(file)}", fragment=""))

    def read(self, file: str, offset: int, size: int | None, seconds: float) -> bytes:
        """See `Storage`."""
        end = time.monotonic() + seconds
        headers = {"Accept-Encoding": "identity"}
        if size is not None:
            headers["Range"] = f"bytes={offset}-{offset + size - 1}"
        timeout = urllib3.Timeout(connect=min(CONNECT, seconds), read=min(READ, seconds))
        retries = urllib3.Retry(total=None, connect=0, read=0, other=0, status=0, redirect=5)
        try:
            answer = self._connections().request(
                "GET", self.address(file), headers=headers, timeout=timeout, retries=retries, preload_content=False
            )
        except HTTPError as error:
            raise Unavailable(_why(error), retry=True) from error
        try:
            _check_answer(answer, offset, size)
            found = _read_body(answer, size, end)
        except BaseException:
            answer.close()  # what is still on its way is not wanted: the connection cannot be used again
            raise
        answer.release_conn()
        return found

    def _connections(self) -> urllib3.PoolManager:
        """Of this process: two that share a connection would take each other's answers."""
        if self._pool is None or self._pool[0] != os.getpid():
            proxy = urllib.request.getproxies().get(self.url.scheme)
            if proxy is None or urllib.request.proxy_bypass(self.url.hostname or ""):
                self._pool = (os.getpid(), urllib3.PoolManager(maxsize=_CONNECTIONS))
            else:
                self._pool = (os.getpid(), urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS))
        return self._pool[1]


def _check_answer(answer: urllib3.BaseHTTPResponse, offset: int, size: int | None) -> None:
    """Raises Unavailable: an answer without the bytes that were asked for."""
    status = answer.status
    if status in _LATER:
        after = answer.headers.get("Retry-After", "")
        raise Unavailable(f"the server answers {status}", retry=True, after=float(after) if after.isdigit() else 0.0)
    if size is None:
        if status != 200:
            raise Unavailable(f"the server answers {status}")
        return
    if status == 416:
        raise Unavailable(f"the server answers 416: the file ends before byte {offset + size}")
    if status == 200:
        raise Unavailable("the server ignores Range (it answers 200), so that each piece would cost a whole shard")
    if status != 206:
        raise Unavailable(f"the server answers {status}")
    sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    if sent is None or (int(sent[1]), int(sent[2])) != (offset, offset + size - 1):
        asked, got = f"{offset}-{offset + size - 1}", answer.headers.get("Content-Range", "no Content-Range")
        raise Unavailable(f"asked for the bytes {asked}, the server sends {got}", retry=True)


def _read_body(answer: urllib3.BaseHTTPResponse, size: int | None, end: float) -> bytes:
    """All of the body, in blocks as they come, so that a server that drips is noticed."""
    parts: list[bytes] = []
    length = 0
    try:
        while size is None or length < size:
            block = answer.read1(_BLOCK, decode_content=False)
            if not block:
                break
            parts.append(block)
            length += len(block)
            if time.monotonic() > end:
                raise Unavailable(f"too slow: {length} bytes in the time there is", retry=True)
    except HTTPError as error:
        raise Unavailable(f"{_why(error)} after {length} bytes", retry=True) from error
    if size is not None and length != size:
        raise Unavailable(f"{length} bytes came in place of {size}", retry=True)
    return b"".join(parts)


def _why(error: BaseException) -> str:
    """In words: urllib3's own messages name objects."""
    chain = [error]
    while isinstance(
        cause := getattr(chain[-1], "reason", None) or chain[-1].__cause__ or chain[-1].__context__, BaseException
    ):
        if cause in chain:
            break
        chain.append(cause)
    if any(isinstance(link, TimeoutError) and not isinstance(link, NewConnectionError) for link in chain):
        return f"no answer within {READ:g} s"
    if any(isinstance(link, IncompleteRead) for link in chain):
        return "the connection closed"
    text = getattr(chain[-1], "strerror", None) or str(chain[-1])
    return f"the connection failed: {text}"


class StoreFolder:
    """A folder of an object store, through fsspec and its package for the store, each with its own settings."""

    remote = True

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        protocol = urlsplit(url).scheme
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            how = f": {install(protocol)}" if isinstance(error, ImportError) and protocol in ("s3", "gs") else ""
            raise Unavailable(f"{protocol}:// cannot be read: {error}{how}") from error
        self._store: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "_store": None}

    def read(self, file: str, offset: int, size: int | None, seconds: float) -> bytes:
        """See `Storage`. The time limit holds for stores with an asynchronous package (s3fs, gcsfs, adlfs)."""
        try:
            store, folder = self._open()
            limit = {"timeout": seconds} if store.async_impl else {}
            end = None if size is None else offset + size
            found = store.cat_file(f"{folder}/{file}", start=offset, end=end, **limit)
        except Exception as error:  # each store has classes of its own
            _refuse(error)
        if size is not None and len(found) != size:
            raise Unavailable(f"{len(found)} bytes came in place of {size}: the file is cut off")
        return found

    def _open(self) -> tuple[Any, str]:
        """Of this process: connections and the thread behind them do not survive a fork."""
        if self._store is None or self._store[0] != os.getpid():
            store, folder = url_to_fs(self.name, skip_instance_cache=True)
            self._store = (os.getpid(), store, folder.rstrip("/"))
        return self._store[1], self._store[2]


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise Unavailable("no such file") from error
    text = (str(error) or type(error).__name__).splitlines()[0]
    final = isinstance(error, PermissionError | ImportError | ValueError | TypeError)
    raise Unavailable(f"cannot be read: {text}", retry=not final) from error
