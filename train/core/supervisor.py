"""A rank under a launcher, in two processes: one that the launcher knows and may kill, and one that trains.

deepspeed and torchrun end their ranks by SIGTERM, and by SIGKILL 30 seconds later, together with all of their children:
a step that lasts longer would have no checkpoint. And when a launcher itself is killed, its ranks train on, unseen, and
meet the job that its scheduler starts again. So the process that a launcher has started only watches, the *supervisor*:
it hands signals on, tells the rank when the launcher has gone, and ends with the rank's exit status. The rank is a
process beside it, in the same group, so that what a terminal sends reaches both.

The standard library alone: it runs before anything large is imported.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vatt import signals

_LOOK = 0.5  # seconds between two looks at launcher and rank
ENOUGH = 600.0  # seconds that a rank has to finish its step and to save, once its supervisor was killed
_GO_ON = "; go on with --resume: what was saved is whole"
_NAME = 15  # prctl: the name of a process, as ps shows it
_link: socket.socket | None = None  # of a rank, to its supervisor

_LAUNCHERS = {"deepspeed.launcher.launch", "torchrun", "torch.distributed.run", "torch.distributed.launch"}
Process = tuple[int, str]  # its number, and when it started: numbers are given again


def process_now(pid: int) -> Process | None:
    """A process that is there, and no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else (pid, fields[19])


def launchers(pid: int) -> list[Process]:
    """The processes of the launcher that has started this one, whose end is the end of the job: deepspeed has two."""
    names = _names(pid)
    if not names & _LAUNCHERS or (found := process_now(pid)) is None:
        return []
    above = _parent(pid)
    first = process_now(above) if "deepspeed.launcher.launch" in names and "deepspeed" in _names(above) else None
    return [found, *([first] if first else [])]


def _names(pid: int) -> set[str]:
    """The first words of a command, without folders: python, -u, -m, deepspeed.launcher.launch."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return set()
    return {Path(word).name for word in words[:4]}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def begin() -> None:
    """The first thing that a script of a job does. Under a launcher the process that returns is the rank; else nothing
    changes. A signal ends it in one line from here on."""
    signals.early()
    if sys.platform != "linux" or "RANK" not in os.environ or not (above := launchers(os.getppid())):
        return
    global _link
    ours, theirs = socket.socketpair()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)  # what comes before the rank listens is for the supervisor
    group = os.getpid()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)  # so the rank is no descendant of the launcher, which would be killed with it
        ours.close()
        theirs.sendall(f"{os.getpid()}\n".encode())
        atexit.register(end, 1)  # where something ends it that nobody has caught; `end` comes before any other way
        _link = theirs
        os.register_at_fork(after_in_child=theirs.close)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        threading.Thread(target=_obey, args=(theirs, group), name="supervisor", daemon=True).start()
        return
    os.waitpid(between, 0)
    theirs.close()
    _watch(ours, above)


def end(code: int) -> None:
    """Tells the supervisor, if there is one, how this rank ends."""
    if _link is not None:
        with suppress(OSError):
            _link.sendall(f"{code}\n".encode())


def _obey(link: socket.socket, supervisor: int) -> None:
    """In a rank: takes the signals that its supervisor got. Without it, there is no launcher that would take its exit
    status: it is to save and to end, in bounded time."""
    while True:
        try:
            number = link.recv(1)
        except OSError:
            number = b""
        if not number:
            break
        signals.forward(number[0])
    signals.forward(signal.SIGTERM)
    time.sleep(ENOUGH)
    _tell(f"error: the launcher has gone, and this rank did not end in {ENOUGH:.0f} s")
    os._exit(128 + signal.SIGTERM)


def _watch(link: socket.socket, above: list[Process]) -> NoReturn:
    """What a supervisor does until its rank has ended."""
    ctypes.CDLL(None).prctl(_NAME, b"vatt-supervisor", 0, 0, 0)
    pid, _, rest = link.recv(64).partition(b"\n")
    rank = process_now(int(pid)) if pid else None
    said = rest
    link.setblocking(False)
    gone = False
    while rank is not None and process_now(rank[0]) == rank:
        found = signal.sigtimedwait(signals.ENDING, 0.02 if said else _LOOK)
        # What the terminal sent, the rank has got as well. What a process sent is for this one alone, or comes twice.
        if found is not None and found.si_code <= 0:
            _send(link, found.si_signo)
        if not gone and any(process_now(one[0]) != one for one in above):
            gone = True
            if os.environ["RANK"] == "0":
                _tell("the launcher has gone; its ranks save and end")
            _send(link, signal.SIGTERM)
        with suppress(OSError):
            said += link.recv(64)
    with suppress(OSError):
        said += link.recv(64)
    if code := said.strip():
        os._exit(int(code))
    rank_of = os.environ.get("RANK", "0")
    how = "" if "evaluate" in {Path(word).stem for word in sys.argv[:2]} else _GO_ON
    of = f"rank {rank_of} (process {pid.decode()})"
    _tell(f"error: {of} was killed, perhaps by the system because memory was short{how}")
    os._exit(128 + signal.SIGKILL)


def _send(link: socket.socket, number: int) -> None:
    with suppress(OSError):
        link.send(bytes([number]))


def _tell(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
