"""Media without moving pictures, for classification: the sound of a file, and a picture held for a whole clip.

Shapes: T frames, S side of the square picture, L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer

from vatt.clip import InputConfig
from vatt.data.decode import (
    _MAY_END_EARLY,
    SHORTEST,
    ChooseStart,
    MediaError,
    View,
    _audio,
    _Clock,
    _Scaler,
    duration_of,
)

_BROKEN = (av.error.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, MemoryError)


def decode_sound(
    path: Path, choose_start: ChooseStart, spec: InputConfig, timeout: float = 30.0
) -> tuple[np.ndarray, float]:
    """Sound of the window that ``choose_start`` picks, of a sound file or a video: mono float32 (L,), and its start.

    What lies past the end of the sound is silence.

    Raises:
        MediaError: no regular file, not a media file, no sound, none that can be decoded, the stream ends long before
            the header says, or the time limit.
    """
    _regular(path, "audio")
    clock = _Clock(path, timeout)
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MediaError(path, "audio", "the file has no sound")
            duration, sure = _sound_length(container)
            if 0 < duration < SHORTEST:
                raise MediaError(path, "duration", f"{duration:.2f} s, at least {SHORTEST} s are needed")
            start = max(0.0, choose_start(duration))
            audio_L, last = _audio(container, start, spec, clock)
    except _BROKEN as error:
        raise MediaError(
            path, "container", f"cannot be decoded: {getattr(error, 'strerror', None) or error}"
        ) from error
    if last == 0 and (sure or start == 0):
        raise MediaError(path, "audio", "no sound could be decoded")
    if sure and last + _MAY_END_EARLY < min(duration or last, start + spec.seconds):
        raise MediaError(path, "audio", f"breaks off at {last:.2f} s, though the file should last {duration:.2f} s")
    return audio_L, start


def _sound_length(container: InputContainer) -> tuple[float, bool]:
    """Seconds of sound, and whether that is sure. Beside a picture, sound may end before the file does: its own length
    counts, and where it has none (.webm, .mkv) nobody knows it."""
    whole, stream = duration_of(container), container.streams.audio[0]
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if not container.streams.video:
        return whole, True
    return (min(own, whole) if whole else own, True) if own else (whole, False)


def decode_picture(path: Path, view: View, spec: InputConfig) -> np.ndarray:
    """A picture as a clip in which nothing moves: uint8 (T, S, S, 3) (paper, section 4.2.3).

    Raises:
        MediaError: no regular file, or not a picture that can be decoded.
    """
    _regular(path, "image")
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "image", "the file has no picture")
            frame = next(container.decode(video=0), None)
            if frame is None:
                raise MediaError(path, "image", "no picture could be decoded")
            picture = _Scaler(view, spec.size)(frame)
    except _BROKEN as error:
        raise MediaError(path, "image", f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from error
    return np.repeat(picture[None], spec.frames, axis=0)


def _regular(path: Path, field: str) -> None:
    if not path.is_file():  # a pipe or a device would block for ever
        raise MediaError(path, field, "no such file" if not path.exists() else "is not a regular file")
