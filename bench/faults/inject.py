"""What disturbs a job from inside of its process, and mounts of this process alone. Linux."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

Act = Callable[..., object]
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
_NEWNS, _REC_PRIVATE, _REMOUNT = 0x20000, 0x4000 | 0x40000, 32  # of <sched.h> and <sys/mount.h>


def send(number: signal.Signals, *_: object) -> None:
    """Sends a signal to this process; SIGKILL ends it here."""
    os.kill(os.getpid(), number)


kill = partial(send, signal.SIGKILL)


def at_file_operation(folder: Path, number: int, act: Act, log: Path | None = None) -> None:
    """Calls ``act`` before this process changes something in ``folder`` for the ``number``-th time, from Python: it
    opens a file to write, renames, removes, makes a folder, or synchronises. ``log`` gets a line of each."""
    owner, root, seen, sync = os.getpid(), str(folder), count(1), os.fsync
    lines = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT)

    def happens(event: str, where: object) -> None:
        if os.getpid() == owner:  # not in a process that it forked
            if lines is not None:
                os.write(lines, f"{event} {where}\n".encode())
            if next(seen) == number:
                act()

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            if given[2] & (os.O_WRONLY | os.O_RDWR) and str(given[0]).startswith(root):
                happens(event, given[0])
        elif event in _CHANGES and (str(given[0]).startswith(root) or given[-1] not in (-1, None)):
            happens(event, given[0])  # the others have a descriptor of their folder, as in shutil.rmtree

    def fsync(handle: Any) -> None:
        happens("fsync", handle)
        sync(handle)

    sys.addaudithook(hook)
    os.fsync = fsync  # type: ignore[assignment]


def at_step(number: int, act: Act) -> None:
    """Calls ``act`` with the module at the beginning of the ``number``-th step of this process."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    seen = count(1)

    def hook(module: Any, inputs: object) -> None:
        if type(module).__name__ == "DeepSpeedEngine" and next(seen) == number:
            act(module)

    register_module_forward_pre_hook(hook)


def kill_in_file(size: int) -> None:
    """From now on, the kernel ends this process where it writes beyond so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def private_mounts() -> bool:
    """Whether what this process mounts from now on is seen by it and its children alone, and ends with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.unshare(_NEWNS) and not libc.mount(b"none", b"/", None, _REC_PRIVATE, None)


def mount_memory(path: str | Path, size: int, remount: bool = False) -> None:
    """A file system of ``size`` bytes in memory at ``path``, or another size of the one that is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=1777".encode()
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", _REMOUNT if remount else 0, options):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
