"""An open media file: what is wrong with it, how long it is, and its decoded frames from some time on.

Times are seconds from the start of the file, or of the source of a packed clip.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import av.error
from av.container.input import InputContainer

from vatt.errors import UserError

SHORTEST = 0.5  # seconds; a file that is shorter than the window but not than this is padded at its end
ROUNDING = 0.0005  # seconds: a frame whose rounded stamp is so little after a moment is shown at it (.mkv: whole ms)
MAY_END_EARLY = 0.5  # seconds by which streams fall short of the duration in the header of sound files

ChooseStart = Callable[[float], float]  # duration of the file -> start of the window, both in seconds


class MediaError(UserError):
    """A file that gives no clip: which file, which part of it (``field``), and why."""

    def __init__(self, file: Path | str, field: str, reason: str) -> None:
        super().__init__(f"{file}: {field}: {reason}")
        self.file, self.field, self.reason = str(file), field, reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:  # so that it comes back from a worker whole
        return MediaError, (self.file, self.field, self.reason)


class Piece(Protocol):
    """A part of a packed clip, a small media file of its own, whose time 0 is ``begins`` in the source.

    Attributes:
        name: shard and member, for messages.
        begins, seconds: where it lies in the source, and how long it is.
    """

    begins: float
    seconds: float

    @property
    def name(self) -> str: ...

    def open(self) -> BinaryIO:
        """Its bytes, seekable. Raises MediaError: they cannot be had."""
        ...

    def expect(self) -> None:
        """It will be opened soon: begins to fetch what is far away, and returns at once."""
        ...


@dataclass(frozen=True)
class Packing:
    """What media were packed for: ``name`` of the data set, pixels of the shorter side, frames a second, and seconds of
    the longest window."""

    name: str
    size: int
    fps: float
    window: float


class Packed(Protocol):
    """Where the media of a clip are that `vatt data pack` has transcoded, see `vatt.data.shards`."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def duration(self) -> float:
        """Of the whole source, seconds; 0 if it was not known."""
        ...

    @property
    def sound(self) -> float | None:
        """Seconds of its sound; None if it has none, 0 if that was not known."""
        ...

    @property
    def packing(self) -> Packing: ...

    @property
    def digest(self) -> str:
        """Of the content of all pieces."""
        ...

    def piece(self, start: float, seconds: float) -> Piece:
        """The piece that holds the window of ``seconds`` from ``start`` on, in seconds of the source. Raises
        MediaError: none does."""
        ...


Media = Path | Packed  # what the functions of this folder decode: a file, or a packed clip
_BUFFER = 1 << 18  # bytes that FFmpeg asks a packed piece for at a time: fewer calls of Python than its 32 kB


class TimeLimit:
    """Stops a decode that takes too long. It is checked between packets, so that nothing hangs."""

    def __init__(self, file: Path | str, seconds: float) -> None:
        self.file, self.seconds, self.end = file, seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raises MediaError: the time is over."""
        if time.monotonic() > self.end:
            raise MediaError(self.file, "decode", f"took more than {self.seconds:g} s (data.decode_timeout)")


@contextmanager
def open_media(media: Path | Piece, kind: str, broken: str = "container") -> Iterator[InputContainer]:
    """The open file. A decoding error inside the block becomes a MediaError.

    Args:
        kind: "video", "audio" or "image": the field of the error if there is no such file.
        broken: the field of the error if it cannot be decoded.

    Raises:
        MediaError: no regular file, or it cannot be decoded.
    """
    name = media if isinstance(media, Path) else media.name
    if isinstance(media, Path) and not media.is_file():  # a pipe or a device would block forever
        raise MediaError(name, kind, "no such file" if not media.exists() else "is not a regular file")
    try:
        if isinstance(media, Path):  # absolute: FFmpeg takes a name with a colon for an address
            with av.open(os.path.abspath(media), metadata_errors="replace") as container:
                yield container
        else:
            options: Any = {"metadata_errors": "replace", "buffer_size": _BUFFER}
            with media.open() as file, av.open(file, "r", **options) as container:
                yield container
    except (av.error.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)  # without the number and the path again
        raise MediaError(name, broken, f"cannot be decoded: {reason}") from error


@dataclass(frozen=True)
class Opened:
    """An open file or piece, and the window that is wanted of it.

    Attributes:
        name: of the file or piece, for messages.
        start: of the window in the source, seconds.
        at: of the window in ``container``, from its time 0 on, seconds.
        origin: the time stamp of that time 0, seconds.
        duration: of ``container``, seconds; 0 if it is not known.
    """

    container: InputContainer
    name: Path | str
    start: float
    at: float
    origin: float
    duration: float
    limit: TimeLimit


@contextmanager
def open_window(
    media: Media,
    choose_start: ChooseStart,
    seconds: float,
    timeout: float,
    kind: str,
    length: Callable[[InputContainer], float] | None = None,
) -> Iterator[Opened]:
    """Opens a file, or that piece of a packed clip which holds the window of ``seconds`` that ``choose_start`` picks.

    ``choose_start`` is told the duration of the whole source, or of its sound if ``kind`` is "audio"; ``length``
    measures that of a file, `duration_of` if it is not given. The time stamps of a piece count from ``Piece.begins``;
    those of a file from the first one in it.

    Raises:
        MediaError: as `open_media`; a file that is known to be too short; what a packed clip raises.
    """
    if isinstance(media, Path):
        limit = TimeLimit(media, timeout)
        with open_media(media, kind) as container:
            duration = (length or duration_of)(container)
            check_duration(media, duration)
            start = max(0.0, choose_start(duration))
            yield Opened(container, media, start, start, origin_of(container), duration, limit)
        return
    start = max(0.0, choose_start((media.sound or media.duration) if kind == "audio" else media.duration))
    piece = media.piece(start, seconds)
    with open_media(piece, kind) as container:
        limit = TimeLimit(piece.name, timeout)  # from now on: fetching a piece has limits of its own
        yield Opened(container, piece.name, start, start - piece.begins, 0.0, piece.seconds, limit)


def duration_of(container: InputContainer) -> float:
    """Seconds, from the container or else its streams; 0 if neither knows."""
    if container.duration:
        return container.duration / av.time_base
    known = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
    return max(known, default=0.0)


def check_duration(path: Path | str, duration: float) -> None:
    """Raises MediaError for a file that is known to be too short to use."""
    if 0 < duration < SHORTEST:
        raise MediaError(path, "duration", f"{duration:.2f} s, at least {SHORTEST} s are needed")


def breaks_off(opened: Opened, last: float) -> str:
    """In words: the stream ends at ``last`` (seconds from time 0), long before the header says."""
    return f"breaks off at {last:.2f} s, though the file should last {opened.duration:.2f} s"


def origin_of(container: InputContainer) -> float:
    """The time stamp, in seconds, at which the file starts."""
    return (container.start_time or 0) / av.time_base


def frames_from(opened: Opened, kind: str, start: float) -> Iterator[Any]:
    """Decoded frames of the first stream of a kind, from the keyframe at or before ``start`` on (seconds from time 0).

    A packet that does not decode is skipped: the times of the frames tell what the holes mean.
    """
    container = opened.container
    stream: Any = container.streams.get({kind: 0})[0]  # PyAV's stubs do not tell the kinds of streams apart
    stream.thread_count = 1  # the loader has one process per core; threads inside would compete with it
    if start > 0 and stream.time_base:
        container.seek(int((start + opened.origin) / stream.time_base), stream=stream, backward=True)
    elif kind == "audio":
        container.seek(container.start_time or 0, backward=True)  # the video was read before
    for packet in container.demux(stream):
        opened.limit.check()
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
