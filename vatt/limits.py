"""Limits of processes: those that the system sets a job (``ulimit``), found at its start and told in a line, and those
that reading processes get, so that a file which is too much for one costs that file, and not the job.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from vatt.errors import UserError

READING = 24  # files that a process opens besides those that the one which starts it has open
_PDEATHSIG = 1  # prctl: the signal that a process gets when the one that forked it ends
_MEMORY = 2 << 30  # bytes that a process which opens files of strangers may take: 16 frames of 8K video take 0.8 GB
_FIRST = 1000  # oom_score_adj: the system ends such a process before any other


class TooFewFiles(UserError, RuntimeError):
    """Not as many files may be open at once as a job needs. The message says what to set."""


def check_open_files(processes: int, setting: str) -> None:
    """Before so many processes are started: each has pipes here, and opens files itself. The limit is raised as far as
    the system allows it.

    Args:
        setting: of the number of processes, which may also be lowered.

    Raises:
        TooFewFiles: there cannot be as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files(soft) + 2 * processes + READING
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard == resource.RLIM_INFINITY or needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    raise TooFewFiles(
        f"{processes} processes that read files need {needed} open files, and {soft} are allowed: raise the limit "
        f"(ulimit -n {max(1024, 2 * needed)}) or lower {setting}"
    )


def no_more_files(what: str) -> TooFewFiles:
    """The error of a job that has come to the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooFewFiles(
        f"{what}: too many files are open, {soft} are allowed: raise the limit (ulimit -n {max(1024, 4 * soft)}) or "
        "lower the number of reading processes"
    )


def _open_files(limit: int) -> int:
    """How many files this process has open; ``limit`` where no further one can be opened to find out."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError as error:
        return limit if error.errno == errno.EMFILE else 0  # 0: not Linux


def end_with_parent(parent: int, by_main_thread: bool = True) -> None:
    """Has the system end this process when the thread that forked it ends, if that was the main one of its process.
    Ends it at once if ``parent`` has gone."""
    if by_main_thread and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def read_strangers() -> None:
    """Bounds the memory of this process, which opens files that may ask for any amount of it. Where memory is short,
    the system ends it and not the job."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_FIRST))
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = data_bytes() + _MEMORY
        if sys.platform == "linux" and (soft == resource.RLIM_INFINITY or most < soft):
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def data_bytes() -> int:
    """What this process has of memory of its own, as RLIMIT_DATA counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
