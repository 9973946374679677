"""One window of a video: frames at a steady rate and the sound of the same time.

Shapes: T frames, S side of the square picture, L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.container.input import InputContainer
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.audio import read_sound
from vatt.data.decode.container import (
    MAY_END_EARLY,
    ChooseStart,
    MediaError,
    TimeLimit,
    check_duration,
    duration_of,
    frames_from,
    open_media,
    origin_of,
)
from vatt.data.decode.image import Scaler, View


@dataclass(frozen=True)
class Window:
    """What was decoded: frames uint8 (T, S, S, 3), sound float32 (L,) or None where the file has none."""

    frames_TSS3: np.ndarray
    audio_L: np.ndarray | None
    start: float


def decode_window(
    path: Path, choose_start: ChooseStart, view: View, spec: InputConfig, timeout: float = 30.0
) -> Window:
    """Decodes the window that ``choose_start`` picks.

    A frame is the last one shown at its time, whatever the frame rate or its variation. The picture is rotated as its
    metadata say, cropped, scaled to S x S and changed as ``view`` asks. Sound is mixed to mono and resampled; it is 0
    where the file has none for a part of the window. A window that reaches past the end repeats the last frame.

    Raises:
        MediaError: no regular file, not a media file, no video, shorter than half a second, no frame that can be
            decoded, the stream ends long before the header says, or the time limit.
    """
    (frames_TSS3,), audio_L, start = _decode(path, choose_start, [view], spec, timeout, sound=True)
    return Window(frames_TSS3, audio_L, start)


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
    limit = TimeLimit(path, timeout)
    with open_media(path, "video") as container:
        if not container.streams.video:
            raise MediaError(path, "video", "the file has no video stream")
        duration = duration_of(container)
        check_duration(path, duration)
        start = max(0.0, choose_start(duration))
        frames = _read_frames(container, path, start, duration, views, spec, limit)
        audio_L = read_sound(container, start, spec, limit)[0] if sound and container.streams.audio else None
        return frames, audio_L, start


def _read_frames(
    container: InputContainer,
    path: Path,
    start: float,
    duration: float,
    views: Sequence[View],
    spec: InputConfig,
    limit: TimeLimit,
) -> list[np.ndarray]:
    """The frames of the window, uint8 (T, S, S, 3) for each view."""
    outs = [np.empty((spec.frames, spec.size, spec.size, 3), np.uint8) for _ in views]
    origin = origin_of(container)
    times = start + (np.arange(spec.frames) + 0.5) / spec.fps  # the middle of each interval: robust to rounded stamps
    scalers = [Scaler(view, spec.size) for view in views]
    shown: VideoFrame | None = None
    filled, last = 0, 0.0
    for frame in frames_from(container, "video", start, limit):
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
    if last + MAY_END_EARLY < needed - 1 / spec.fps:
        raise MediaError(path, "video", f"breaks off at {last:.2f} s, though the file should last {duration:.2f} s")
    for out, scaler in zip(outs, scalers, strict=True):
        out[filled:] = scaler(shown)
    return outs
