"""One job at a time in the folder of a run: `run.lock`, which names its owner and is there while it runs.

The lock of the file system, where there is one, ends with the process that has it, however that ends. On a disk that
several hosts share it may be missing, or count on one host alone; so the file also says host and process, and a lock of
another host is only taken over by a job that its scheduler has started again there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from train.core.supervisor import process_now
from vatt import signals
from vatt.config import ConfigError
from vatt.errors import printable

NAME = "run.lock"
PATIENCE = 600.0  # seconds for an owner that was told to end, and may still save
_LOOK = 0.5  # seconds between two tries

Owner = dict[str, Any]


class InUse(ConfigError):
    """Another job has the folder of a run. The message names it, and says what to do."""


class RunLock:
    """The lock of a folder; `release` gives it back. So does the end of the process.

    Args:
        folder: of the run; exists.
        say: is told of a lock that nobody holds any more, and of waiting for a job that was told to end.

    Raises:
        InUse: another job has it. OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], object] = lambda text: None) -> None:
        self.path = folder / NAME
        self._file, self._locks, left = self._take(say)
        if left:
            say(f"{self.path}: of process {left.get('pid')} of {left.get('host')}, which is gone; taken over")
        self.owner = _myself(self._locks)
        self._write()
        _held.append(self)
        signals.on_signal(self._note_ending)

    def _take(self, say: Callable[[str], object]) -> tuple[int, bool, Owner]:
        """The open file, whether it is locked, and the owner that it has outlived, if any."""
        if any(lock.path.resolve() == self.path.resolve() for lock in _held):
            raise InUse(self._refusal(_myself(True)))
        until, announced = time.monotonic() + PATIENCE, False
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                free, locks = _lock(file)
                owner = _read(file)
                if free and not _same_file(file, self.path):  # the one before has just removed it
                    os.close(file)
                    continue
                if free and (not owner or _is_over(owner, locks)):
                    return file, locks, owner
                if not owner.get("ending") or time.monotonic() > until:
                    raise InUse(self._refusal(owner))
            except BaseException:
                with suppress(OSError):
                    os.close(file)
                raise
            os.close(file)
            if not announced:
                say(f"{self.path}: process {owner.get('pid')} was told to end, and saves; waiting for it")
                announced = True
            time.sleep(_LOOK)

    def _refusal(self, owner: Owner) -> str:
        host, pid = printable(str(owner.get("host", "an unknown host"))), owner.get("pid", "?")
        who = f"{self.path}: process {pid} of {host} has this run since {printable(str(owner.get('started', '?')))}"
        if owner.get("host") in (socket.gethostname(), None):
            return f"{who}; wait until it ends, or end it (kill {pid}: it saves first), or choose another --out"
        return (
            f"{who}; if it does not run there any more, remove {self.path} and start again; else choose another --out"
        )

    def _note_ending(self) -> None:
        """So that the job that a scheduler starts next waits for this one."""
        self.owner["ending"] = True
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        """In place, for a new file would have another lock. Short, so that nobody reads a part of it."""
        content = (json.dumps(self.owner, indent=1) + "\n").encode()
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))

    def release(self) -> None:
        """Removes the file while it is locked, so that nobody waits at one that is gone."""
        if self in _held:
            _held.remove(self)
            signals.on_signal(self._note_ending, forget=True)
            with suppress(OSError):
                if _same_file(self._file, self.path):
                    self.path.unlink()
            with suppress(OSError):
                os.close(self._file)


_held: list[RunLock] = []


def release_all() -> None:
    """The locks that this process has: its job is over."""
    for lock in list(_held):
        lock.release()


def _myself(locked: bool) -> Owner:
    process = process_now(os.getpid())
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "process": process[1] if process else None,  # when it started, in ticks of the system
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "processes": _processes(),
        "locked": locked,
        "job": _scheduled(os.environ),
    }


def _scheduled(variables: Mapping[str, str]) -> list[Any] | None:
    """The job of a scheduler, and how often it was started again."""
    if not (job := variables.get("SLURM_JOB_ID")):
        return None
    return [f"slurm {job}", int(text) if (text := variables.get("SLURM_RESTART_COUNT", "0")).isdecimal() else 0]


def _is_over(owner: Owner, locks: bool) -> bool:
    """Whether the owner of a lock that nobody holds, as far as the file system knows, has ended."""
    mine = _myself(locks)
    theirs, ours = owner.get("job"), mine["job"]
    if isinstance(theirs, list) and ours and theirs[0] == ours[0] and theirs[1:] < ours[1:]:
        return True  # a scheduler ends a job before it starts it again
    if owner.get("host") != mine["host"]:
        return False
    if owner.get("boot") not in (None, mine["boot"]):
        return True  # the host was started again
    if owner.get("processes") not in (None, mine["processes"]):
        return bool(locks and owner.get("locked"))  # another container: its numbers of processes are not ours
    pid = owner.get("pid")
    found = process_now(pid) if isinstance(pid, int) and pid > 0 else None
    return found is None or pid == os.getpid() or owner.get("process") not in (None, found[1])


def _lock(file: int) -> tuple[bool, bool]:
    """Whether no process holds the lock of the file, and whether the file system has one. It is this process's then;
    forked ones do not inherit it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False, True
        return True, False
    return True, True


def _same_file(file: int, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(file)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _read(file: int) -> Owner:
    """What the file says; empty where it says nothing that can be read, as after a full disk."""
    for _ in range(3):  # it may be written just now
        try:
            found = json.loads(os.pread(file, 10_000, 0) or b"{}")
        except (ValueError, RecursionError):
            time.sleep(0.05)
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _processes() -> str | None:
    """Which processes are numbered together with this one: those of a container."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
