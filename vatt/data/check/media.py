"""Trying a media file: it opens, has what its row needs, and a window in its middle decodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_window, duration_of, open_media
from vatt.errors import UserError

# The paper's window, with small pictures: only decoding is tried, so scaling should cost nothing.
_SPEC = InputConfig(size=32)


class CheckError(UserError, ValueError):
    """A setting of a check that makes no sense."""


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
