"""Reading processes: each task is read by one of them, straight into its rows of a batch in shared memory.

Tasks are numbered from 0, and a fixed number of them makes a batch. Whichever process is free takes the next one, so
batches come in order whatever the number of processes, and one slow file delays its own batch alone. Nothing but small
results and errors goes through a pipe.

A process that dies while it reads is replaced, and the new one goes on with the same task, told what has killed the
first. The processes end with the one that started them, however that ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch

from vatt.data.batches import Filled, Interrupted, Plan, Work, WorkerFault
from vatt.data.slots import LOWER, Board, NoRoom, Slots
from vatt.errors import UserError
from vatt.limits import check_open_files, end_with_parent, no_more_files, read_strangers
from vatt.signals import ENDING

_GRACE = 0.2  # seconds that a process has to end by itself
_GONE = 5.0  # seconds until a killed process has gone; one that waits for a dead disk may never go
_LOOK = 1.0  # seconds between two looks at whether a process hangs, or the one who waits was told to stop
_LIMIT = 20  # processes that die one after the other before anything was read
_NOTHING = -1  # in place of a task: the process could not even begin


@dataclass
class _Raised:
    """An answer: what reading a task raised. Errors themselves do not always come whole out of a pipe."""

    kind: type[Exception]
    message: str

    def to_exception(self) -> Exception:
        error = self.kind.__new__(self.kind)
        error.args = (self.message,)
        return error


@dataclass
class _Process:
    """A reading process, as the one that started it sees it.

    Attributes:
        task, lost: what it was started to go on with: a task (or -1), and what became of earlier attempts at it.
        ended: why it was killed by the one that started it.
    """

    pid: int
    answers: Connection
    task: int
    lost: dict[int, str]
    ended: str = ""


class Pool:
    """Iterates over batches in order: their tensors, and what reading each of their tasks returned.

    The tensors stay valid as long as they are held, see `Slots`. `close` ends the processes; so does the end of this
    process, even by SIGKILL.

    Args:
        work: is called in the processes. They are forked, so that it may hold anything, and a million clips are neither
            pickled nor read again; and they must not use a GPU, which CUDA forbids in a forked process.
        ready: batches that are kept ready.
        in_use: batches that are held at once by who iterates; there is memory for as many more.
        workers: processes, 1 or more.
        alive: seconds without an answer after which a process counts as hung.
        interrupted: looked at while waiting for a batch.

    Raises:
        Interrupted: while iterating, once ``interrupted()``. UserError: while iterating, when its batch is due: what
            reading a task raised. WorkerFault: anything else that reading raised. NoRoom: no process can be started.
    """

    def __init__(
        self,
        work: Work,
        plan: Plan,
        *,
        ready: int,
        workers: int,
        alive: float,
        in_use: int = 1,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.work, self.plan, self._alive, self._interrupted = work, plan, alive, interrupted
        check_open_files(workers, "data.workers")
        slots = ready + in_use
        self._sizes = (1, 1, slots, slots * plan.tasks, workers, workers)
        self._slots = Slots(plan.layout, plan.rows * plan.tasks, slots, sum(self._sizes))
        self._board = Board(self._slots, self._sizes)
        self._processes: list[_Process] = []
        self._issued = self._given = 0  # batches
        self._pending: set[int] = set()  # tasks that may be taken or were, and are not answered
        self._left: dict[int, int] = {}  # batch -> how many of these are its own
        self._answers: dict[int, Any] = {}  # task -> answer, of batches that were not given
        self._deaths = self._untold = 0
        self._owner = os.getpid()
        self._take, self._tell = os.pipe()  # a byte for each task that may be taken; its end tells that all is over
        os.set_blocking(self._tell, False)
        _open_pools.add(self)
        try:
            self._processes += [self._start(number) for number in range(workers)]
            if torch.cuda.is_initialized():  # a run on the CPU needs no context of a GPU
                self._slots.pin()
        except BaseException:
            self.close()
            raise

    @property
    def note(self) -> str:
        """Why the memory is not pinned, though there is a GPU."""
        return self._slots.note

    def __iter__(self) -> Iterator[Filled]:
        return self

    def __next__(self) -> Filled:
        number = self._given
        tasks = self.plan.tasks_of(number)
        if not tasks or self not in _open_pools:
            raise StopIteration
        self._issue()
        while self._listen(0):  # so that no pipe is full
            pass
        while self._left.get(number, 1):
            if self._interrupted():
                raise Interrupted
            if not self._listen(_LOOK):
                self._end_hung()
            self._raise_of(tasks)  # now: the other tasks of the batch may take as long to fail
            self._issue()  # a batch may have been given back meanwhile
        self._raise_of(tasks)
        answers = [self._answers.pop(task, None) for task in tasks]
        self._given += 1
        del self._left[number]
        slot = int(self._board.slot[number % len(self._board.slot)])
        return self._slots.hand_out(slot, len(tasks) * self.plan.rows), answers

    def _raise_of(self, tasks: range) -> None:
        """Raises what reading one of them raised."""
        for task in tasks:
            if isinstance(answer := self._answers.get(task), _Raised):
                raise answer.to_exception()

    def _issue(self) -> None:
        """Lets the processes fill the slots that are free."""
        board = self._board
        while self._slots.free and (tasks := self.plan.tasks_of(self._issued)):
            board.issue(self._issued, self._slots.free.popleft(), tasks)
            self._pending.update(tasks)
            self._left[self._issued] = len(tasks)
            self._issued += 1
            self._untold += len(tasks)
        if self._untold:
            with suppress(BlockingIOError):  # the pipe is full; the rest is told later
                self._untold -= os.write(self._tell, bytes(self._untold))

    def _listen(self, seconds: float) -> bool:
        """Waits up to ``seconds`` for answers, and takes one of each process. Whether there was any."""
        poll = select.poll()
        for process in self._processes:
            poll.register(process.answers.fileno(), select.POLLIN)
        heard = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
        for number, process in enumerate(self._processes):
            if process.answers.fileno() in heard:
                try:
                    task, answer = process.answers.recv()
                except (EOFError, OSError):  # it has ended, perhaps while it wrote
                    self._replace(number, process)
                else:
                    self._hear(task, answer)
        return bool(heard)

    def _hear(self, task: int, answer: Any) -> None:
        if task == _NOTHING:
            raise answer.to_exception()
        self._pending.remove(task)
        self._left[task // self.plan.tasks] -= 1
        self._deaths = 0
        if answer is not None:
            self._answers[task] = answer

    def _task_of(self, number: int) -> int:
        """The task that a process is at, or -1."""
        owner = self._board.owner
        return next((task for task in sorted(self._pending) if owner[task % len(owner)] == number + 1), -1)

    def _end_hung(self) -> None:
        for number, process in enumerate(self._processes):
            age = (time.monotonic_ns() - int(self._board.since[number])) / 1e9
            if age > self._alive and self._task_of(number) >= 0:
                process.ended = f"the process that read it gave no answer for {self._alive:g} s and was ended"
                os.kill(process.pid, signal.SIGKILL)  # that it has ended is heard like of any other
                if age > self._alive + _GONE:  # it waits for a disk that has gone, and will never run again
                    self._replace(number, process)

    def _replace(self, number: int, process: _Process) -> None:
        """Starts a process for one that has ended. It goes on with the same task, if that one was at any."""
        process.answers.close()
        how = _how(_wait_for(process.pid, time.monotonic() + _GONE))
        reason = process.ended or how
        task, lost = self._task_of(number), dict[int, str]()
        if task >= 0:
            lost = process.lost if task == process.task else {}
            lost = {**lost, int(self._board.attempt[number]): reason}
        else:  # no clip is to blame
            self._deaths += 1
        if self._deaths > _LIMIT:
            raise NoRoom(
                f"data.workers: {self._deaths} reading processes ended one after the other before they read anything; "
                f"of the last one, {reason}"
            )
        self._untold += 1  # it may have taken a byte and no task; one too many does no harm
        self._processes[number] = self._start(number, task, lost)

    def _start(self, number: int, task: int = -1, lost: dict[int, str] | None = None) -> _Process:
        try:
            answers, send = Pipe(duplex=False)
        except OSError as error:
            raise no_more_files("data.workers") from error
        self._board.since[number] = time.monotonic_ns()  # not that of one which was ended for its age
        parent = os.getpid(), threading.current_thread() is threading.main_thread()
        streams: list[Any] = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
        for stream in streams:  # or what they hold would be written twice
            with suppress(AttributeError, ValueError, OSError):
                stream.flush()
        try:
            with warnings.catch_warnings():  # Python 3.12 warns of threads; the process touches no lock of theirs
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError as error:
            answers.close()
            send.close()
            raise NoRoom(f"data.workers: no reading process can be started: {error.strerror}") from error
        if pid == 0:
            self._live(number, parent, send, task, lost or {})
        send.close()
        return _Process(pid, answers, task, lost or {})

    def _live(
        self, number: int, parent: tuple[int, bool], send: Connection, task: int, lost: dict[int, str]
    ) -> NoReturn:
        """What a process does until there is nothing more to do."""
        try:
            _settle(*parent)
            try:
                self._slots.attach()
            except OSError as error:
                why = f"data: a reading process has no memory for the batches: {error.strerror}; {LOWER}"
                send.send((_NOTHING, _Raised(NoRoom, why)))
                os._exit(1)
            self._board = Board(self._slots, self._sizes)
            self._batches = [self._slots.tensors(slot) for slot in range(len(self._board.slot))]
            if task >= 0:
                self._read(number, task, lost, send)
            while os.read(self._take, 1):
                if (task := self._board.take(number)) >= 0:
                    self._read(number, task, {}, send)
            os._exit(0)
        except BrokenPipeError:  # the one who would hear it has ended
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _read(self, number: int, task: int, lost: dict[int, str], send: Connection) -> None:
        board = self._board

        def begin(attempt: int) -> None:
            board.since[number] = time.monotonic_ns()
            board.attempt[number] = attempt

        slot = int(board.slot[task // self.plan.tasks % len(board.slot)])
        rows = self.plan.part(self._batches[slot], task)
        begin(0)
        try:
            answer = self.work.read(task, rows, lost, begin)
        except UserError as error:
            answer = _Raised(type(error), str(error))
        except Exception:
            answer = _Raised(WorkerFault, f"in a reading process:\n{traceback.format_exc()}")
        send.send((task, answer))

    def close(self) -> None:
        """Ends the processes: at once those that wait, and soon after those that are at work."""
        processes, self._processes = self._processes, []
        if os.getpid() != self._owner:  # a forked process that collects garbage
            return
        if self in _open_pools:
            _open_pools.remove(self)
            os.close(self._tell)
            os.close(self._take)
        end = time.monotonic() + _GRACE
        for process in processes:
            if _wait_for(process.pid, end) is None:
                os.kill(process.pid, signal.SIGKILL)
        last = time.monotonic() + _GONE
        for process in processes:
            _wait_for(process.pid, last)
            process.answers.close()
        self._slots.close()

    def __del__(self) -> None:
        if sys is not None and getattr(self, "_processes", None):
            self.close()


_open_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _settle(parent: int, by_main_thread: bool) -> None:
    """Makes a forked process a reading process.

    The signals that a terminal or a launcher sends to all processes of a job are ignored: the job finishes its step and
    writes a checkpoint then. The end of the job is told by a signal, if the thread that forked is its main one, and
    always by the end of the pipe of tasks, whose other end no reading process may hold.

    A progress bar puts streams of its own in place of Python's, with a lock that its thread may have held just now.
    """
    sys.stdout, sys.stderr = sys.__stdout__ or sys.stdout, sys.__stderr__ or sys.stderr
    signal.set_wakeup_fd(-1)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent, by_main_thread)
    read_strangers()
    for pool in list(_open_pools):
        os.close(pool._tell)
    gc.freeze()  # what the job has left as garbage may be of a GPU, which must not be asked to free it here
    torch.set_num_threads(1)


def _wait_for(pid: int, end: float) -> int | None:
    """How a process has ended: its exit status, or the signal below 0; None if it has not until ``end``."""
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has asked
            return 0
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def _how(status: int | None) -> str:
    if status is None or status >= 0:
        return f"the process that read it ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (so the system ends a process when memory is short)" if status == -signal.SIGKILL else ""
    return f"the process that read it was ended by {name}{hint}"
