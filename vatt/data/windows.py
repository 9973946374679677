"""Which window of a clip is read: where it begins, on the grid of the frame rate, and the pieces that it will need.

A position is a number from 0, as early in the clip as possible, to 1, as late as possible.
"""

from __future__ import annotations

import math
from contextlib import suppress

from vatt.clip import InputConfig
from vatt.data.clips import Clip
from vatt.data.decode import ChooseStart, MediaError

_ROUNDED = 1e-6  # of an interval: what a time that is meant to lie on the grid may lie beside it


def window_start(clip: Clip, duration: float, spec: InputConfig, position: float) -> float:
    """Where the window begins, for ``position`` from 0 (as early as possible) to 1 (as late as possible), in seconds.

    It lies within the range of the clip where that is long enough, else it covers the range; always within the video.
    It is a multiple of 1 / ``spec.fps``, so that a file shows the same frames as its packed copy, whose frames lie on
    this grid. Where none lies between the earliest and the latest start, the window leaves the range, or the video, by
    less than half an interval.
    """
    last = max(0.0, duration - spec.seconds)
    begin = clip.start or 0.0
    end = min(clip.end, duration) if clip.end is not None and duration else clip.end or duration
    low, high = (min(max(time, 0.0), last) for time in sorted((begin, end - spec.seconds)))
    first, final = math.ceil(low * spec.fps - _ROUNDED), math.floor(high * spec.fps + _ROUNDED)
    interval = round((low + position * (high - low)) * spec.fps)
    return (min(max(interval, first), final) if first <= final else interval) / spec.fps


def starts_at(clip: Clip, spec: InputConfig, position: float) -> ChooseStart:
    """What gives `window_start` once the duration is known; it raises MediaError as `check_start`."""

    def choose(duration: float) -> float:
        check_start(clip, duration)
        return window_start(clip, duration, spec, position)

    return choose


def check_start(clip: Clip, duration: float) -> None:
    """Raises MediaError: the clip begins behind the end of its file, of ``duration`` seconds (0: not known)."""
    if clip.start is not None and 0 < duration <= clip.start:
        where = f"{clip.row}: " if clip.row else ""
        reason = f"{where}starts at {clip.start:g} s, behind the end of the file, which is {_length(duration)} long"
        raise MediaError(clip.video if clip.packed is None else clip.packed.name, "start", reason)


def _length(seconds: float) -> str:
    """For people: seconds, beyond a minute also as a player shows it."""
    clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"{seconds:.2f} s" + (f" ({clock})" if seconds >= 60 else "")


def spread(count: int) -> list[float]:
    """``count`` positions from 0 to 1, evenly; one lies in the middle."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def expect_window(clip: Clip, spec: InputConfig, position: float, sound: bool = False) -> None:
    """Begins to fetch the piece of a packed clip that the window at ``position`` lies in."""
    packed = clip.packed
    if packed is None:
        return
    with suppress(MediaError):  # told when it is read
        if clip.kind == "image":
            packed.piece(0.0, 0.0).expect()
        else:
            duration = (packed.sound or packed.duration) if sound else packed.duration
            packed.piece(window_start(clip, duration, spec, position), spec.seconds).expect()


def expect_windows(clip: Clip, spec: InputConfig, windows: int, sound: bool = False) -> None:
    """Begins to fetch the pieces of ``windows`` windows, evenly spread over a packed clip."""
    for position in spread(windows):
        expect_window(clip, spec, position, sound)
