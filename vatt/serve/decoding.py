"""Media for the page, opened in processes of their own: a picture of a moment, the shape of a sound, an upload.

Files and uploads may be anything, and may crash or hang a decoder, so `Decoder` has processes with limits of time and
memory, as `vatt.isolated` gives them. An upload is never written to a disk: it is bytes in memory, and gone with the
answer.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.clips import Clip
from vatt.data.decode import RgbFrames, Wanted, decode_sound, decode_windows, write_picture
from vatt.data.decode.view import chain, pull, upright
from vatt.data.reading import bad_clip
from vatt.data.samples import Views
from vatt.errors import UserError
from vatt.isolated import Failed, run_isolated

PEAKS = 96  # bars of the picture of a sound
_WIDTH = 480  # pixels of the picture of a moment
_LISTEN = 8000  # samples a second that a picture of a sound is made of
_GOODBYE = 0.6  # seconds that threads have to end; one whose process is at work ends later, or with this process
_GRACE = 5.0  # seconds beyond the limit that the decoder itself keeps


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a process is asked for. ``seconds``: that it may take."""

    seconds: float = 20.0


@dataclass(frozen=True)
class Poster(Asked):
    """Asks for a JPEG of the picture at ``at`` seconds."""

    path: Path
    kind: str
    at: float


@dataclass(frozen=True)
class Shape(Asked):
    """Asks for the loudness of a sound from ``start`` to ``end``: `PEAKS` numbers from 0 to 100."""

    path: Path
    start: float
    end: float


@dataclass(frozen=True)
class Upload(Asked):
    """Asks for the windows of an upload, as a model reads them, and what to show of it.

    Attributes:
        kind: "video", "audio" or "image", as its name says.
        by: what of it is wanted: its picture or its sound.
        at: seconds at which the one window lies that is wanted, in its middle; None: ``windows``, evenly spread.
    """

    content: bytes
    name: str
    kind: str
    by: Literal["video", "audio"]
    spec: InputConfig
    windows: int = 4
    at: float | None = None


@dataclass(frozen=True)
class Decoded:
    """An upload: (V, T, S, S, 3) uint8 or (V, L) float32; and a JPEG of it, or the peaks of its sound."""

    x_V: np.ndarray
    jpeg: bytes = b""
    peaks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Refused:
    """It cannot be done; ``reason`` names the part that is at fault."""

    reason: str


class DecodeError(UserError, ValueError):
    """Media that cannot be used; the message says why."""


class BusyError(UserError, RuntimeError):
    """Too much is waiting."""


class Decoder:
    """Some threads, each with a process that opens media for it. Use it as a context.

    Args:
        processes: at work at the same time.
        waiting: requests that may wait; those beyond are refused.
    """

    def __init__(self, processes: int = 2, waiting: int = 256) -> None:
        self._queue: Queue[tuple[Asked, Future[Any]]] = Queue(waiting)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(processes)]
        self._end = threading.Event()

    def __enter__(self) -> Decoder:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        until = time.monotonic() + _GOODBYE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        while True:  # whoever waits must not wait for ever
            try:
                _, waiting = self._queue.get_nowait()
            except Empty:
                return
            waiting.cancel()

    async def ask(self, asked: Asked) -> Any:
        """The JPEG (bytes), the peaks (tuple) or the upload (`Decoded`) that is asked for.

        Raises:
            DecodeError: it cannot be decoded. BusyError: too much is waiting.
        """
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((asked, future))
        except Full as error:
            raise BusyError("too many files wait to be opened; try again in a moment") from error
        result = await asyncio.wrap_future(future)
        if isinstance(result, Failed | Refused):
            raise DecodeError(result.reason)
        return result

    def _work(self) -> None:
        """Hands what is asked to one process, which is replaced when it crashes or takes too long."""
        given: list[Future[Any]] = []

        def items() -> Iterator[Asked]:
            while not self._end.is_set():
                with suppress(Empty):
                    asked, future = self._queue.get(timeout=0.5)
                    if future.set_running_or_notify_cancel():  # else whoever asked has gone
                        given.append(future)
                        yield asked

        while not self._end.is_set():
            try:
                for _, result in run_isolated(open_media_for, items(), workers=1, seconds=_limit):
                    given.pop().set_result(result)
            except Exception as error:  # no process can be started now
                if given:
                    given.pop().set_result(Refused(str(error)))
                self._end.wait(1.0)


def _limit(asked: Asked) -> float:
    return asked.seconds + _GRACE


def open_media_for(asked: Asked) -> Any:
    """What a process does for `Decoder`."""
    try:
        if isinstance(asked, Poster):
            return _poster(asked.path, asked.kind, asked.at, asked.seconds)
        if isinstance(asked, Shape):
            return _shape(asked.path, asked.start, asked.end, asked.seconds)
        assert isinstance(asked, Upload)
        return _upload(asked)
    except MemoryError:
        raise
    except Exception as error:
        bad = bad_clip(error, "media")
        return Refused(f"{bad.field}: {bad.reason}")


class _Jpeg:
    """A `FrameWriter` that keeps one frame as a JPEG, upright and small."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        if self.content:
            return
        filters, height, width = upright(frame)
        small = min(_WIDTH, width)
        size = f"{max(2, small & ~1)}:{max(2, min(2 * _WIDTH, round(height * small / width)) & ~1)}"
        graph = chain(frame, [*filters, ("scale", f"{size}:out_range=full"), ("format", "yuvj420p")])
        graph.push(frame)
        picture = pull(graph)
        codec: Any = av.CodecContext.create("mjpeg", "w")
        codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "yuvj420p"
        codec.time_base, codec.options, codec.thread_count = Fraction(1), {"qmin": "3", "qmax": "5"}, 1
        picture.pts = None
        self.content = b"".join(bytes(packet) for packet in (*codec.encode(picture), *codec.encode(None)))

    def finish(self) -> None:
        """All frames have been written."""


def _poster(path: Path, kind: str, at: float, timeout: float) -> bytes:
    spec, jpeg = InputConfig(frames=1, fps=10.0, size=2), _Jpeg()
    if kind == "image":
        write_picture(path, [jpeg], spec, timeout)
    else:
        decode_windows(path, [Wanted(lambda duration: _within(at, duration, spec), [jpeg])], spec, timeout)
    return jpeg.content


def _within(at: float, duration: float, spec: InputConfig) -> float:
    return max(0.0, min(at, duration - spec.seconds) if duration else at)


def _shape(path: Path, start: float, end: float, timeout: float) -> tuple[int, ...]:
    seconds = min(max(end - start, 0.5), 90.0)
    spec = InputConfig(frames=1, fps=1 / seconds, size=2, sample_rate=_LISTEN)
    sound_L, _ = decode_sound(path, lambda duration: start, spec, timeout)
    return _peaks(sound_L)


def _peaks(sound_L: np.ndarray) -> tuple[int, ...]:
    loud = np.array([float(np.abs(part).max(initial=0.0)) for part in np.array_split(sound_L, PEAKS)])
    return tuple(np.rint(100 * loud / max(loud.max(), 1e-4)).astype(int).tolist())


def _upload(asked: Upload) -> Decoded:
    """From memory: the bytes get a file descriptor, and no name in any folder."""
    number = os.memfd_create("upload")
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(asked.content)
        path = Path(f"/proc/self/fd/{number}")
        spec, kind = asked.spec, asked.kind
        if asked.at is None:
            clip = Clip(path, kind=kind)
            views = Views(1 if kind == "image" else asked.windows, 1)
            x_V = np.array(views.read(clip, asked.by, spec, asked.seconds).numpy())
            at = 0.0
        else:
            at = max(0.0, asked.at - spec.seconds / 2)
            x_V = _one_window(path, asked, at)
        if asked.by == "audio":
            # Decoded sounds may exceed full scale a little, which the model is not given. The bars are of all windows.
            x_V = x_V / np.maximum(1.0, np.abs(x_V).max(1, keepdims=True)).astype(np.float32)
            return Decoded(x_V, peaks=_peaks(x_V.reshape(-1)))
        return Decoded(x_V, jpeg=_poster(path, kind, at, asked.seconds))
    finally:
        os.close(number)


def _one_window(path: Path, asked: Upload, at: float) -> np.ndarray:
    spec = asked.spec
    start = partial(_within, at, spec=spec)
    if asked.by == "audio":
        return decode_sound(path, lambda duration: start(duration), spec, asked.seconds)[0][None]
    x_VTSS3 = np.empty((1, spec.frames, spec.size, spec.size, 3), np.uint8)
    writer = RgbFrames(CentreView(), x_VTSS3[0])
    if asked.kind == "image":
        write_picture(path, [writer], spec, asked.seconds)
    else:
        decode_windows(path, [Wanted(lambda duration: start(duration), [writer])], spec, asked.seconds)
    return x_VTSS3
