"""One window of a media file: frames at a steady rate and the sound of the same time, through PyAV.

Shapes: T frames, S side of the square picture, L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from av.container.input import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.errors import UserError

SHORTEST = 0.5  # seconds; a file that is shorter than the window but not than this is padded at its end
_MAY_END_EARLY = 0.5  # seconds by which streams fall short of the duration in the header of sound files


class MediaError(UserError):
    """A file that gives no clip: which file, which part of it (``field``), and why."""

    def __init__(self, file: Path | str, field: str, reason: str) -> None:
        super().__init__(f"{file}: {field}: {reason}")
        self.file, self.field, self.reason = str(file), field, reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:  # so that it comes back from a worker whole
        return MediaError, (self.file, self.field, self.reason)


@dataclass(frozen=True)
class Box:
    """A part of the picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Window:
    """What was decoded: frames uint8 (T, S, S, 3), sound float32 (L,) or None where the file has none."""

    frames_TSS3: np.ndarray
    audio_L: np.ndarray | None
    start: float


ChooseStart = Callable[[float], float]  # duration of the file -> start of the window, both in seconds
Filter = tuple[str, str]  # name and arguments of an FFmpeg filter


class View(Protocol):
    """How a clip is looked at: one choice for all of its frames."""

    def box(self, height: int, width: int) -> Box:
        """The part of the picture to keep."""
        ...

    def filters(self, mean_luma: float) -> list[Filter]:
        """What is done to the scaled picture; ``mean_luma`` (0 to 1) is that of the first frame."""
        ...


class _Clock:
    """Stops a decode that takes too long; looked at between packets, so that nothing hangs."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self.seconds, self.end = file, seconds, time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise MediaError(self.file, "decode", f"took more than {self.seconds:g} s (data.decode_timeout)")


def decode_window(
    path: Path, choose_start: ChooseStart, view: View, spec: InputConfig, timeout: float = 30.0
) -> Window:
    """Decodes the window that ``choose_start`` picks.

    A frame is the last one shown at its time, whatever the frame rate or its variation. The picture is turned as its
    metadata say, cut, scaled to S x S and changed as ``view`` asks. Sound is mixed to mono and resampled; it is 0 where
    the file has none for a part of the window. A window that reaches past the end holds the last frame.

    Raises:
        MediaError: no regular file, not a media file, no video, shorter than half a second, no frame that can be
            decoded, the stream ends long before the header says, or the time limit.
    """
    (frames,), audio, start = _decode(path, choose_start, [view], spec, timeout, sound=True)
    return Window(frames, audio, start)


def decode_views(
    path: Path, choose_start: ChooseStart, views: Sequence[View], spec: InputConfig, timeout: float = 30.0
) -> list[np.ndarray]:
    """The frames of one window as each of ``views`` sees them, uint8 (T, S, S, 3) each, decoded once; no sound.

    Raises:
        MediaError: as `decode_window`.
    """
    return _decode(path, choose_start, views, spec, timeout, sound=False)[0]


def _decode(
    path: Path, choose_start: ChooseStart, views: Sequence[View], spec: InputConfig, timeout: float, sound: bool
) -> tuple[list[np.ndarray], np.ndarray | None, float]:
    if not path.is_file():  # a pipe or a device would block for ever
        raise MediaError(path, "video", "no such file" if not path.exists() else "is not a regular file")
    clock = _Clock(path, timeout)
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "video", "the file has no video stream")
            duration = duration_of(container)
            if 0 < duration < SHORTEST:
                raise MediaError(path, "duration", f"{duration:.2f} s, at least {SHORTEST} s are needed")
            start = max(0.0, choose_start(duration))
            frames = _video(container, path, start, duration, views, spec, clock)
            audio = _audio(container, start, spec, clock)[0] if sound and container.streams.audio else None
            return frames, audio, start
    except (av.error.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)  # without the number and the path again
        raise MediaError(path, "container", f"cannot be decoded: {reason}") from error


def duration_of(container: InputContainer) -> float:
    """Seconds, from the container or else its streams; 0 if neither knows."""
    if container.duration:
        return container.duration / av.time_base
    known = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
    return max(known, default=0.0)


def _frames(container: InputContainer, kind: str, start: float, clock: _Clock) -> Iterator[Any]:
    """Decoded frames of the first stream of a kind, from the keyframe at or before ``start`` on.

    A packet that does not decode is passed over: what the holes mean is judged from the times of the frames.
    """
    stream: Any = container.streams.get({kind: 0})[0]  # PyAV's stubs do not tell the kinds of streams apart
    stream.thread_count = 1  # the loader has a process a core; threads inside would fight with it
    origin = (container.start_time or 0) / av.time_base
    if start > 0 and stream.time_base:
        container.seek(int((start + origin) / stream.time_base), stream=stream, backward=True)
    elif kind == "audio":
        container.seek(container.start_time or 0, backward=True)  # the video was read before
    for packet in container.demux(stream):
        clock.check()
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _video(
    container: InputContainer,
    path: Path,
    start: float,
    duration: float,
    views: Sequence[View],
    spec: InputConfig,
    clock: _Clock,
) -> list[np.ndarray]:
    outs = [np.empty((spec.frames, spec.size, spec.size, 3), np.uint8) for _ in views]
    origin = (container.start_time or 0) / av.time_base
    times = start + (np.arange(spec.frames) + 0.5) / spec.fps  # the middle of each interval: robust to rounded stamps
    scalers = [_Scaler(view, spec.size) for view in views]
    shown: VideoFrame | None = None
    filled, last = 0, 0.0
    for frame in _frames(container, "video", start, clock):
        if frame.pts is None:
            continue
        last = frame.time - origin
        due = int(np.searchsorted(times, last))  # moments before this frame belong to the one shown until now
        if shown is not None and due > filled:
            for out, scaler in zip(outs, scalers, strict=True):
                out[filled:due] = scaler(shown)
            filled = due
        shown = frame
        if filled == spec.frames:
            return outs
    if shown is None:
        raise MediaError(path, "video", "no frame could be decoded")
    needed = min(duration or last, start + spec.seconds)
    if last + _MAY_END_EARLY < needed - 1 / spec.fps:
        raise MediaError(path, "video", f"breaks off at {last:.2f} s, though the file should last {duration:.2f} s")
    for out, scaler in zip(outs, scalers, strict=True):
        out[filled:] = scaler(shown)
    return outs


class _Scaler:
    """Turns, cuts, scales and recolours frames in one filter chain of FFmpeg, made anew when their format changes.

    The cut is a shift of pointers in the decoded planes; nothing is converted that is not kept.
    """

    def __init__(self, view: View, size: int) -> None:
        self.view, self.size = view, size
        self.filters: list[Filter] | None = None
        self.key: tuple[int, int, str] | None = None
        self.graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        key = (frame.width, frame.height, frame.format.name)
        if key != self.key or self.graph is None:
            self.graph, self.key = self._make(frame), key
        self.graph.push(frame)
        return self.graph.pull().to_ndarray()

    def _make(self, frame: VideoFrame) -> Graph:
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # quarter turns, counterclockwise
        height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        box = self.view.box(height, width)
        if self.filters is None:
            small = frame.reformat(width=32, height=32, format="gray")
            self.filters = self.view.filters(float(small.to_ndarray().mean()) / 255)
        graph = Graph()
        graph.threads = 1  # its slices are too small to share; waking threads costs six times the scaling
        chain = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        ]
        for name in {0: [], 1: ["cclock"], 2: ["clock", "clock"], 3: ["clock"]}[turns]:
            chain.append(graph.add("transpose", name))
        chain.append(graph.add("crop", f"{box.width}:{box.height}:{box.left}:{box.top}"))
        chain.append(graph.add("scale", f"{self.size}:{self.size}:flags=bilinear"))
        chain += [graph.add(name, arguments) for name, arguments in self.filters]
        chain.append(graph.add("format", "rgb24"))
        chain.append(graph.add("buffersink"))
        for first, second in pairwise(chain):
            first.link_to(second)
        graph.configure()
        return graph


def _audio(container: InputContainer, start: float, spec: InputConfig, clock: _Clock) -> tuple[np.ndarray, float]:
    """The sound from ``start`` on, mono float32 (L,), and the time at which the last frame read ends (0: none was).

    Each unbroken run of samples is put where its time says.
    """
    rate = spec.sample_rate
    out = np.zeros(spec.samples, np.float32)
    origin = (container.start_time or 0) / av.time_base
    resampler: AudioResampler | None = None
    expected = place = 0.0  # where the next input should begin (s), where the next output goes (samples)
    for frame in _frames(container, "audio", max(0.0, start - 0.2), clock):
        if frame.pts is None or not frame.sample_rate:
            continue
        begins = frame.time - origin
        if begins >= start + spec.seconds + 0.1:
            break
        if resampler is None or abs(begins - expected) > 0.03:  # the first, or a gap in the stream
            place = _put(out, resampler.resample(None), place) if resampler else place
            resampler = AudioResampler(format="fltp", layout="mono", rate=rate)
            place = round((begins - start) * rate)
        expected = begins + frame.samples / frame.sample_rate
        frame.pts = None  # or the resampler would fill gaps by itself
        place = _put(out, resampler.resample(frame), place)
    if resampler is not None:
        _put(out, resampler.resample(None), place)
    return np.clip(out, -1, 1), expected


def _put(out: np.ndarray, frames: list[Any], place: float) -> int:
    """Copies the samples of ``frames`` into ``out`` from ``place`` on, as far as they lie within. Returns the next."""
    position = int(place)
    for frame in frames:
        samples = np.frombuffer(frame.planes[0], np.float32, frame.samples)
        first, last = max(0, position), min(len(out), position + len(samples))
        if first < last:
            out[first:last] = samples[first - position : last - position]
        position += len(samples)
    return position
