"""Trying media files in processes of their own, which may crash or hang: each file ends with a result or a reason."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_window, duration_of, open_media
from vatt.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_READY = None  # what a process says first, when its imports are done
_START = 1200.0  # seconds until then; only a hang takes so long, also on a loaded machine

# The paper's window, with small pictures: only decoding is tried, so scaling should cost nothing.
_SPEC = InputConfig(size=32)


class CheckError(UserError, ValueError):
    """A setting of a check that makes no sense."""


class StartError(UserError, RuntimeError):
    """Processes for the files cannot be started; the message says how they ended."""


@dataclass(frozen=True)
class MediaFile:
    """A file to try, as a row of ``kind`` (video, audio or image) uses it.

    Attributes:
        sound: whether a video must have sound, too.
        seconds: for decoding.
    """

    path: Path
    kind: str
    sound: bool = False
    seconds: float = 30.0


@dataclass(frozen=True)
class Tried:
    """What a file gave: its duration (seconds; 0 if it is not known or a picture), or what is wrong with which part."""

    duration: float = 0.0
    field: str | None = None
    reason: str | None = None


def try_file(file: MediaFile) -> Tried:
    """Decodes one window in the middle of the file. Does not raise for a bad file, but says what is wrong with it."""
    try:
        if file.kind == "image":
            decode_picture(file.path, CentreView(), _SPEC)
            return Tried()
        if file.kind == "audio":
            decode_sound(file.path, _middle, _SPEC, file.seconds)
        else:
            window = decode_window(file.path, _middle, CentreView(), _SPEC, file.seconds)
            if file.sound and window.audio_L is None:
                return Tried(field="audio", reason="the file has no sound")
        with open_media(file.path, file.kind) as container:
            return Tried(duration_of(container))
    except MediaError as error:
        return Tried(field=error.field, reason=error.reason)


def _middle(duration: float) -> float:
    return max(0.0, (duration - _SPEC.seconds) / 2)


@dataclass(frozen=True)
class Failed:
    """An item whose process did not come back with a result."""

    reason: str


class _Process(Generic[Item]):
    """One process, its pipe, and the item that it has, with the moment at which it must have finished."""

    def __init__(self, context: Any, function: Callable[[Item], Any]) -> None:
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, function), daemon=True)
        self.process.start()
        other.close()  # so that the end of the process is the end of the pipe
        self.ready = False
        self.item: Item | None = None
        self.deadline = time.monotonic() + _START

    def give(self, item: Item, seconds: float) -> None:
        self.item, self.deadline = item, time.monotonic() + seconds
        with suppress(OSError):  # it ended just now: the end of its pipe will tell, and fail the item
            self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends this process
    pipe.send(_READY)
    while True:
        try:
            item = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            result = function(item)
        except Exception as error:
            result = Failed(f"{type(error).__name__}: {error}")
        pipe.send(result)


def run_isolated(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, seconds: float
) -> Iterator[tuple[Item, Result | Failed]]:
    """``function(item)`` for each item, as they finish, each process with one item at a time.

    A process that crashes (segmentation fault, killed for memory), raises, or takes longer than ``seconds`` fails its
    item alone; a new process replaces it. As always with processes, a script that calls this must do so
    under ``if __name__ == "__main__"``.

    Args:
        function: of a module that processes can import, with an argument and a result that can be pickled.
        workers: number of processes, 1 or more.

    Raises:
        CheckError: ``workers`` is less than 1.
        StartError: processes end before they take an item, so that nothing could ever be done.
    """
    if workers < 1:
        raise CheckError(f"workers must be 1 or more, got {workers}")
    context = multiprocessing.get_context("forkserver")  # clean processes, whose imports are done once
    context.set_forkserver_preload([function.__module__])
    waiting = list(reversed(list(items)))
    crew = [_Process[Item](context, function) for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or any(one.item is not None for one in crew):
            soonest = min(one.deadline for one in crew) - time.monotonic()
            ready = wait([one.pipe for one in crew], max(0.0, soonest) if soonest < float("inf") else None)
            for number, one in enumerate(crew):
                if one.pipe not in ready and time.monotonic() < one.deadline:
                    continue
                item, result = one.item, _result(one, one.pipe in ready, seconds if one.ready else _START)
                if isinstance(result, Failed):
                    one.end()
                    if not one.ready:
                        raise StartError(f"a process could not start: {result.reason}")
                    crew[number] = _Process(context, function)
                one.item, one.deadline = None, float("inf")
                if item is not None:
                    yield item, result
                if waiting and crew[number].ready:
                    crew[number].give(waiting.pop(), seconds)
    finally:
        for one in crew:
            one.end()


def _result(one: _Process[Any], has_spoken: bool, seconds: float) -> Any:
    """What a process sent, or why it sent nothing."""
    if not has_spoken:
        return Failed(f"took more than {seconds:g} s")
    try:
        result = one.pipe.recv()
    except (EOFError, OSError):
        one.process.join(5)
        code = one.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
        return Failed(f"the process ended with {how}")
    one.ready = True
    return result
