"""Trying a media file: it opens, has what its row needs, and a window in its middle decodes; whether it is silent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.clips import Clip
from vatt.data.decode import (
    MediaError,
    TimeLimit,
    check_numbers,
    decode_picture,
    decode_sound,
    decode_window,
    duration_of,
    is_silent,
    open_media,
    sound_digest,
)
from vatt.data.reading import bad_clip
from vatt.data.windows import window_start
from vatt.errors import UserError

Range = tuple[float | None, float | None]  # start and end of a clip in its file, seconds

# The paper's window, with small pictures: only decoding is tried, so scaling should cost nothing.
_SPEC = InputConfig(size=32)
# Where windows of a clip lie that are listened to, until one is not silent.
_PLACES = (0.5, *(number / 15 for number in range(16)))
SILENT, SOUNDLESS = b"", b"none"  # in place of a digest


class CheckError(UserError, ValueError):
    """A setting of a check that makes no sense."""


@dataclass(frozen=True)
class MediaFile:
    """A file to try, as a row of ``kind`` (video, audio or image) uses it.

    Attributes:
        sound: whether it is looked for in a video, too, and its clips are listened to.
        seconds: for decoding.
        ranges: the clips of the file that are listened to.
    """

    path: Path
    kind: str
    sound: bool = False
    seconds: float = 30.0
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class FileResult:
    """What a file gave: its duration (seconds; 0 if it is not known or a picture), or what is wrong with which part.

    ``sounds``: of each of the ranges the `sound_digest` of its first window that is not silent, or `SILENT`, or
    `SOUNDLESS` of a file that has none, for the ``reason``; None where time was up before.
    """

    duration: float = 0.0
    field: str | None = None
    reason: str | None = None
    sounds: tuple[bytes | None, ...] = ()

    def line(self) -> list[Any]:
        """For JSON."""
        sounds = [None if sound is None else sound.hex() for sound in self.sounds]
        return [self.duration, self.field, self.reason, sounds]

    @classmethod
    def read(cls, line: Any) -> FileResult | None:
        """From `line`; None from anything else."""
        try:
            duration, field, reason, sounds = line
            return cls(
                duration, field, reason, tuple(None if sound is None else bytes.fromhex(sound) for sound in sounds)
            )
        except (TypeError, ValueError):
            return None


def check_file(file: MediaFile) -> FileResult:
    """Decodes one window in the middle of the file. Does not raise for a bad file, but says what is wrong with it."""
    until, without = time.monotonic() + file.seconds, ""
    try:
        if file.kind == "image":
            decode_picture(file.path, CentreView(), _SPEC, file.seconds)
            return FileResult()
        if file.kind == "audio":
            decode_sound(file.path, _middle, _SPEC, file.seconds)
        else:
            window = decode_window(file.path, _middle, CentreView(), _SPEC, file.seconds)
            if file.sound and window.audio_L is None:
                without = window.lost or "the file has no sound"
        with open_media(file.path, file.kind, limit=TimeLimit(file.path, file.seconds)) as container:
            duration = duration_of(container, file.path)
        check_numbers(file.path, file.seconds)
        if without:
            return FileResult(duration, reason=without, sounds=(SOUNDLESS,) * len(file.ranges))
        sounds = tuple(_hear(file, each, until) for each in file.ranges) if file.sound else ()
        return FileResult(duration, sounds=sounds)
    except Exception as error:
        bad = bad_clip(error, file.path)
        return FileResult(field=bad.field, reason=bad.reason)


def _start(clip: Clip, place: float, duration: float) -> float:
    return window_start(clip, duration, _SPEC, place)


def _middle(duration: float) -> float:
    return max(0.0, (duration - _SPEC.seconds) / 2)


def _hear(file: MediaFile, span: Range, until: float) -> bytes | None:
    """See `FileResult`. A window whose sound does not decode has none, as for readers."""
    clip = Clip(file.path, *span, kind=file.kind)
    for place in _PLACES:
        if (left := until - time.monotonic()) <= 0:
            return None
        try:
            sound_L, _ = decode_sound(file.path, partial(_start, clip, place), _SPEC, left)
        except MediaError:
            continue
        if not is_silent(sound_L):
            return sound_digest(sound_L)
    return SILENT
