"""Work in processes of its own, which may crash or hang: each item ends with a result or a reason."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vatt.errors import UserError
from vatt.limits import TooFewFiles, check_open_files, end_with_parent, read_strangers
from vatt.signals import ENDING, at_end, children_without_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")

_READY = None  # what a process says first, when its imports are done
_START = 1200.0  # seconds until then; only a hang takes so long, also on a loaded machine
_GONE = 5.0  # seconds until a killed process has gone; one that waits for a dead disk may never go
_END: Any = object()


class StartError(UserError, RuntimeError):
    """Processes for the items cannot be started; the message says how they ended."""


@dataclass(frozen=True)
class Failed:
    """An item whose process did not come back with a result."""

    reason: str


class _Process(Generic[Item]):
    """One process, its pipe, and the item that it has, with the moment at which it must have finished."""

    def __init__(self, context: Any, function: Callable[[Item], Any]) -> None:
        try:
            self.pipe, other = context.Pipe()
            forks = context.get_start_method() != "forkserver"  # here, and not in the main thread of that server
            main = not forks or threading.current_thread() is threading.main_thread()
            if not forks:
                with children_without_interrupts():  # of whom this server would be one
                    forkserver.ensure_running()
            self.process = context.Process(target=_serve, args=(other, function, main), daemon=True)
            with warnings.catch_warnings():  # Python 3.12 warns of threads where it forks; no lock of theirs is touched
                warnings.simplefilter("ignore", DeprecationWarning)
                self.process.start()
        except (OSError, EOFError, RuntimeError) as error:  # of the server that forks them: EOFError
            why = getattr(error, "strerror", None) or str(error) or "the server of processes has ended"
            raise StartError(f"no process can be started: {why}; see the limits of ulimit -n, -u and -v") from error
        other.close()  # so that the end of the process is the end of the pipe
        self.ready = False
        self.item: Item | None = None
        self.seconds = _START
        self.deadline = time.monotonic() + _START

    def give(self, item: Item, seconds: float) -> None:
        self.item, self.seconds, self.deadline = item, seconds, time.monotonic() + seconds
        with suppress(OSError):  # it ended just now: the end of its pipe will tell, and fail the item
            self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join(_GONE)
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], by_main_thread: bool) -> None:
    gc.freeze()  # what a forked process inherits may be of a GPU, which must not be asked to free it here
    for number in ENDING:  # a terminal or a launcher sends them to all; the parent ends this process
        signal.signal(number, signal.SIG_IGN)
    _let_server_end()
    end_with_parent(os.getppid(), by_main_thread)  # or the server of processes, which ends when the parent does
    read_strangers()
    try:
        pipe.send(_READY)
    except ConnectionError:  # the parent has ended meanwhile
        return
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError):  # the parent is gone
            return
        try:
            result = function(item)
        except TooFewFiles as error:  # no fault of the item
            result = error
        except MemoryError:
            result = Failed("takes more memory than a process may have")
        except Exception as error:
            result = Failed(f"{type(error).__name__}: {error}")
        try:
            pipe.send(result)
        except ConnectionError:  # the parent is gone
            return


def _let_server_end() -> None:
    """Closes the pipe by which a process keeps the server of processes alive, which forks for those it has forked, too:
    a process that is stuck would keep it, and with it itself, after the end of the parent."""
    server = forkserver._forkserver
    alive = getattr(server, "_forkserver_alive_fd", None)
    if alive is not None:
        with suppress(OSError):
            os.close(alive)
        vars(server)["_forkserver_alive_fd"] = None


def run_isolated(
    function: Callable[[Item], Result],
    items: Iterable[Item | None],
    *,
    workers: int,
    seconds: float | Callable[[Item], float],
    fork: bool = False,
) -> Iterator[tuple[Item, Result | Failed]]:
    """``function(item)`` for each item, as they finish, each process with one item at a time.

    A process that crashes (segmentation fault, killed for memory), raises, takes longer than ``seconds`` or more memory
    than `vatt.limits` gives it fails its item alone; a new process replaces it. As always with processes, a script that
    calls this must do so under ``if __name__ == "__main__"``.

    Args:
        function: of a module that processes can import, with an argument and a result that can be pickled.
        items: asked for the next one when a process is free. None stands for "not now": it is asked again when another
            item has finished, so that new items may follow from results.
        workers: number of processes, 1 or more.
        seconds: for an item.
        fork: start as copies of this process, in milliseconds and without importing the script that runs. ``function``
            must then use neither a GPU nor what other threads of this process may hold.

    Raises:
        StartError: processes end before they take an item, so that nothing could ever be done. TooFewFiles: one
            of ulimit -n.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    limit = seconds if callable(seconds) else lambda item: seconds
    # Clean processes, whose imports are done once, unless they are to be copies.
    check_open_files(workers, "the number of processes")
    context = multiprocessing.get_context("fork" if fork else "forkserver")
    if not fork:
        context.set_forkserver_preload([function.__module__])
    count = min(workers, len(items)) if isinstance(items, Sized) else workers
    crew: list[_Process[Item]] = []
    source, ended = iter(items), not count
    try:
        for _ in range(count):
            crew.append(_Process(context, function))  # those before one that fails are ended below
        while True:
            for one in crew:
                if one.ready and one.item is None and not ended:
                    item = next(source, _END)
                    if item is _END:
                        ended = True
                    elif item is None:
                        break
                    else:
                        one.give(item, limit(item))
            busy = [one for one in crew if one.item is not None or not one.ready]
            if ended and not any(one.item is not None for one in crew):
                return
            if not busy:
                raise RuntimeError("items said 'not now' while none was being worked on")
            soonest = min(one.deadline for one in crew) - time.monotonic()
            ready = wait([one.pipe for one in crew], max(0.0, soonest) if soonest < float("inf") else None)
            for number, one in enumerate(crew):
                if one.pipe not in ready and time.monotonic() < one.deadline:
                    continue
                item, result = one.item, _result(one, one.pipe in ready)
                if isinstance(result, TooFewFiles):
                    raise result
                if isinstance(result, Failed):
                    one.end()
                    if not one.ready:
                        raise StartError(f"a process could not start: {result.reason}")
                    if item is not None or not ended:
                        crew[number] = _Process(context, function)
                one.item, one.deadline = None, float("inf")
                if item is not None:
                    yield item, result
    finally:
        for one in crew:
            one.end()


def end_all() -> None:
    """At the end of a command: kills all processes of `run_isolated`, which another thread may run, and the server that
    forks them, which would otherwise import for seconds more."""
    for process in multiprocessing.active_children():
        process.kill()
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


at_end(end_all)


def _result(one: _Process[Any], has_spoken: bool) -> Any:
    """What a process sent, or why it sent nothing."""
    if not has_spoken:
        return Failed(f"took more than {one.seconds:g} s")
    try:
        result = one.pipe.recv()
    except (EOFError, OSError):
        one.process.join(5)
        code = one.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
        return Failed(f"the process ended with {how}")
    one.ready = True
    return result
