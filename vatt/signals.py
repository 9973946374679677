"""Signals that end a command: it finishes what must not be cut off, ends what it has started, and says which it was.

SIGINT (Ctrl-C), SIGTERM (schedulers, launchers) and SIGHUP (a terminal that closes) are taken alike. By default the
first one raises `SignalInterrupt` in the main thread, so that ``finally`` and ``with`` do their work. In `put_off` it
is only noted. A second Ctrl-C ends the command at once in either case; so does the first signal where the main thread
does not come back from a library within seconds, as it may hang there.

Exit statuses are those of a shell: 128 and the number of the signal (130, 143, 129).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from vatt.errors import UserError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME = 0.5  # seconds within which two Ctrl-C are one: of the terminal, and of a launcher that hands it on
_AGAIN = 2.0  # seconds that a second Ctrl-C leaves the main thread to end by itself
_ELSEWHERE = 0.05  # seconds after which a finalizer that swallowed `SignalInterrupt` has ended
_STUCK = 20.0  # seconds that the main thread has to come back from a library, where nothing needs to be finished


class SignalInterrupt(KeyboardInterrupt):
    """A signal told the command to end. ``number``: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(in_words(number))
        self.number = number


@dataclass
class _Signals:
    """What is known of the signals of this process."""

    active: bool = False  # whether handlers are installed
    raising: bool = True  # whether the first signal raises; else it is noted
    second_raises: bool = True  # whether a second Ctrl-C does
    received: int | None = None  # the first signal
    second_interrupt: bool = False  # a second Ctrl-C came
    forwarded: list[int] = field(default_factory=list)  # signals that `forward` is about to send to this process
    tell: int = -1  # the end of a pipe that wakes the listener
    callbacks: list[Callable[[], object]] = field(default_factory=list)  # of `on_signal`


_state = _Signals()
_at_end: list[Callable[[], object]] = []


def received() -> int | None:
    """The first signal that told this command to end, or None."""
    return _state.received


def on_signal(callback: Callable[[], object], forget: bool = False) -> None:
    """Calls ``callback`` in a thread of its own when the first signal comes; or not any more."""
    if forget:
        _state.callbacks.remove(callback)
    else:
        _state.callbacks.append(callback)


def status() -> int:
    """The exit status of a command that was stopped by a signal; 0 if none came."""
    return 0 if _state.received is None else 128 + _state.received


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a command that an interrupt ended: ours, or that of Python's own handler of Ctrl-C."""
    return 128 + (interrupt.number if isinstance(interrupt, SignalInterrupt) else signal.SIGINT)


def words_of(interrupt: KeyboardInterrupt) -> str:
    """What is told of a command that an interrupt ended, as `status_of`."""
    return in_words(status_of(interrupt) - 128)


def in_words(number: int) -> str:
    """What is told of a command that a signal ended."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def at_end(callback: Callable[[], object]) -> None:
    """Calls ``callback`` when a signal ends this process at once, and in `leave`: for processes that it has started."""
    _at_end.append(callback)


def leave(status: int) -> NoReturn:
    """Ends the process at once, when all has been unwound. Python's own end takes seconds once PyTorch is there, waits
    for threads that compute, and leaves a second Ctrl-C to the system."""
    for callback in _at_end:
        with suppress(Exception):
            callback()
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def early() -> None:
    """For the first lines of a script: until `ending`, a signal ends it with one line, and not in the traceback of an
    import."""
    for number in _to_handle():
        signal.signal(number, _end_early)


def _end_early(number: int, frame: FrameType | None) -> NoReturn:
    _end(number)


def _end(number: int, before: str = "") -> NoReturn:
    with suppress(OSError):
        os.write(2, f"{before}{in_words(number)}\n".encode())
    for callback in _at_end:
        with suppress(Exception):
            callback()
    os._exit(128 + number)


def _to_handle() -> Iterator[int]:
    """Not SIGHUP under nohup, which asks for it to be ignored."""
    return (number for number in ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN)


@contextmanager
def ending() -> Iterator[None]:
    """Inside, the first signal raises `SignalInterrupt` in the main thread. Nothing changes in another thread, or where
    it is inside another one. Raises UserError: the system allows no thread."""
    if _state.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    _reset()
    heard, tell = os.pipe()
    for end in (heard, tell):
        os.set_blocking(end, end == heard)
    listener = threading.Thread(target=_listen, args=(heard, os.getpid()), name="signals", daemon=True)
    try:
        listener.start()
    except RuntimeError as error:
        os.close(heard)
        os.close(tell)
        raise UserError("no thread can be started; see the limit of ulimit -u") from error
    before: dict[int, Any] = {number: signal.signal(number, _note) for number in _to_handle()}
    wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    _state.active, _state.tell = True, tell
    hook = sys.unraisablehook
    sys.unraisablehook = lambda found: _raise_elsewhere(found, hook)
    try:
        yield
    finally:
        _state.active = False
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)  # ends the listener
        listener.join(1)


def _reset() -> None:
    _state.raising, _state.second_raises = True, True
    _state.received, _state.second_interrupt, _state.forwarded = None, False, []


@contextmanager
def put_off(second_raises: bool = True) -> Iterator[None]:
    """Inside, a signal is only noted: look at `received`. A second Ctrl-C raises `SignalInterrupt`; or it does not, and
    ends the process in `_AGAIN` seconds: for libraries that an interrupt leaves half done, such as asyncio."""
    with ending():
        before = _state.raising, _state.second_raises
        _state.raising, _state.second_raises = False, second_raises
        try:
            yield
        finally:
            _state.raising, _state.second_raises = before


@contextmanager
def at_once(before: str = "") -> Iterator[None]:
    """Inside, a signal ends the process at once, in a line after ``before``: for imports, which may swallow what is
    raised in them, and where there is nothing to finish. Nothing changes in another thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        _end(number, before)

    handlers = {number: signal.signal(number, end) for number in _to_handle()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def may_interrupt() -> Iterator[None]:
    """Inside, also in `put_off`, a signal raises, one that came before too. For what can be left out."""
    before, _state.raising = _state.raising, True
    try:
        if _state.active and _state.received is not None:
            raise SignalInterrupt(_state.received)
        yield
    finally:
        _state.raising = before


def _note(number: int, frame: FrameType | None) -> None:
    """The handler, in the main thread. No output here: it may come in the middle of a line."""
    first = _state.received is None
    if first:
        _state.received = number
    if _state.second_interrupt and _state.second_raises:
        _state.second_interrupt = False  # `_listen` interrupts as well
        raise SignalInterrupt(signal.SIGINT)
    if first and _state.raising:
        raise SignalInterrupt(number)


def _raise_elsewhere(found: sys.UnraisableHookArgs, otherwise: Callable[[Any], object]) -> None:
    """Where an interrupt came up inside a finalizer or a callback, which Python lets no error leave: it comes again."""
    if not isinstance(found.exc_value, SignalInterrupt):
        otherwise(found)
        return
    number = found.exc_value.number

    def raise_it() -> None:
        _state.received = None
        _send(number)

    timer = threading.Timer(_ELSEWHERE, raise_it)
    timer.daemon = True
    timer.start()


def _listen(heard: int, owner: int) -> None:
    """Hears of signals also while the main thread is in a library, and sees to it that the process ends."""
    first: float | None = None
    with open(heard, "rb", buffering=0) as pipe:
        while numbers := pipe.read(1):
            number, now = numbers[0], time.monotonic()
            if number not in ENDING:
                continue
            by_us = number in _state.forwarded
            if by_us:
                _state.forwarded.remove(number)
            if first is None:
                first = now
                _later(_STUCK, owner, number, lambda: _state.received is None and _state.raising)
                for callback in list(_state.callbacks):
                    callback()
            elif number == signal.SIGINT and not by_us and now - first > _SAME:
                _state.second_interrupt = True
                _later(_AGAIN, owner, number, lambda: True)
                _send(signal.SIGINT)  # the handler may have looked before


def _later(seconds: float, owner: int, number: int, wanted: Callable[[], bool]) -> None:
    """Ends the process, if in ``seconds`` it is still there, inside `ending`, and ``wanted()``."""

    def end() -> None:
        if _state.active and os.getpid() == owner and wanted():
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            _end(number)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def forward(number: int) -> None:
    """A signal that somebody else got for this process: it counts as the first one, and never as a second Ctrl-C. May
    be called from any thread."""
    if _state.received is None:
        _send(number)


@contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes that are started inside (not forked by Python) never get a Ctrl-C, which a terminal sends to all: until
    one has imported what ignores it, it would end with a traceback. The parent ends them."""
    from multiprocessing import resource_tracker  # here, as a command begins with this file

    resource_tracker.ensure_running()  # else multiprocessing starts it with the first one, and lets the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process has that of who starts it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(number: int) -> None:
    """A signal of our own to the main thread, which it wakes from a call of the system, too."""
    _state.forwarded.append(number)
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _hold() -> None:
    """Before a fork: a signal that the new process gets must not come before it has forgotten ours."""
    if _state.active:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _go_on() -> None:
    if _state.active:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _forget() -> None:
    """In a forked process, which takes signals as any other does: they are not told to the one that forked it."""
    _at_end.clear()
    if _state.active:
        _state.active = False
        signal.set_wakeup_fd(-1)
        os.close(_state.tell)
        for number in _to_handle():
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_forget)
