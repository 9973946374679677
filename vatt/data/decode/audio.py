"""Sound: a window of it from a sound file or a video, mono and resampled.

Shapes: L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from av.audio.resampler import AudioResampler
from av.container.input import InputContainer

from vatt.clip import InputConfig
from vatt.data.decode.container import (
    MAY_END_EARLY,
    ChooseStart,
    Media,
    MediaError,
    Opened,
    breaks_off,
    duration_of,
    frames_from,
    open_window,
)


def decode_sound(
    media: Media,
    choose_start: ChooseStart,
    spec: InputConfig,
    timeout: float = 30.0,
    out_L: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Sound of the window that ``choose_start`` picks, of a sound file or a video: mono float32 (L,), and its start.

    Past the end of the sound there is silence. It is written to ``out_L`` where that is given.

    Raises:
        MediaError: no regular file, not a media file, no sound, none that can be decoded, the stream ends long before
            the header says, or the time limit.
    """
    if not isinstance(media, Path) and media.sound is None:
        raise MediaError(media.name, "audio", "the file has no sound")
    with open_window(media, choose_start, spec.seconds, timeout, "audio", lambda c: sound_length(c)[0]) as opened:
        if not opened.container.streams.audio:
            raise MediaError(opened.name, "audio", "the file has no sound")
        if isinstance(media, Path):
            duration, sure = opened.duration, sound_length(opened.container)[1]
        else:  # the sound of a piece ends with the piece, or before it where that of the source does
            sure = bool(media.sound)
            duration = min(opened.duration, (media.sound or media.duration) - (opened.start - opened.at))
        audio_L, last = read_sound(opened, spec, out_L)
    if last == 0 and (sure or opened.at == 0):
        raise MediaError(opened.name, "audio", "no sound could be decoded")
    if sure and last + MAY_END_EARLY < min(duration or last, opened.at + spec.seconds):
        raise MediaError(opened.name, "audio", breaks_off(opened, last))
    return audio_L, opened.start


def sound_length(container: InputContainer) -> tuple[float, bool]:
    """Seconds of sound, and whether that is sure. Beside a picture, sound may end before the file does: its own length
    counts, and where it has none (.webm, .mkv) it is not known."""
    if not container.streams.audio:
        return 0.0, False
    whole, stream = duration_of(container), container.streams.audio[0]
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if not container.streams.video:
        return whole, True
    return (min(own, whole) if whole else own, True) if own else (whole, False)


def read_sound(opened: Opened, spec: InputConfig, out_L: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """The sound of the window, mono float32 (L,), and the time at which the last frame read ends (0: none was).

    Each unbroken run of samples is put where its time says.
    """
    rate, start = spec.sample_rate, opened.at
    if out_L is None:
        out_L = np.empty(spec.samples, np.float32)
    out_L[:] = 0
    resampler: AudioResampler | None = None
    expected = 0.0  # where the next input should begin, seconds
    position: float = 0.0  # where the next output goes, samples
    for frame in frames_from(opened, "audio", max(0.0, start - 0.2)):
        if frame.pts is None or not frame.sample_rate:
            continue
        begins = frame.time - opened.origin
        if begins >= start + spec.seconds + 0.1:
            break
        if resampler is None or abs(begins - expected) > 0.03:  # the first, or a gap in the stream
            if resampler is not None:
                _put(out_L, resampler.resample(None), position)
            resampler = AudioResampler(format="fltp", layout="mono", rate=rate)
            position = round((begins - start) * rate)
        expected = begins + frame.samples / frame.sample_rate
        frame.pts = None  # or the resampler would fill gaps by itself
        position = _put(out_L, resampler.resample(frame), position)
    if resampler is not None:
        _put(out_L, resampler.resample(None), position)
    return np.clip(out_L, -1, 1, out=out_L), expected


def _put(out_L: np.ndarray, frames: list[Any], position: float) -> int:
    """Copies the samples of ``frames`` into ``out_L`` from ``position`` on, as far as they lie within; the next one."""
    at = int(position)
    for frame in frames:
        samples = np.frombuffer(frame.planes[0], np.float32, frame.samples)
        first, last = max(0, at), min(len(out_L), at + len(samples))
        if first < last:
            out_L[first:last] = samples[first - at : last - at]
        at += len(samples)
    return at
