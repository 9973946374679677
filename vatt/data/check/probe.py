"""Trying one media file: does it open, has it what is needed, and does a window in its middle decode."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import av
import av.error

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_window, duration_of


@dataclass(frozen=True)
class Job:
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
class Probed:
    """What a file gave: its duration (seconds; 0 if it is not known or a picture), or what is wrong with which part."""

    duration: float = 0.0
    field: str | None = None
    reason: str | None = None


# The paper's window, with small pictures: decoding is what is tried, and scaling takes no part in it.
_SPEC = InputConfig(size=32)


def probe(job: Job) -> Probed:
    """Decodes one window in the middle of the file. Does not raise for a bad file, but says what is wrong with it."""
    try:
        if job.kind == "image":
            decode_picture(job.path, CentreView(), _SPEC)
            return Probed()
        if job.kind == "audio":
            decode_sound(job.path, _middle, _SPEC, job.seconds)
        else:
            window = decode_window(job.path, _middle, CentreView(), _SPEC, job.seconds)
            if job.sound and window.audio_L is None:
                return Probed(field="audio", reason="the file has no sound")
        with av.open(os.path.abspath(job.path), metadata_errors="replace") as container:
            return Probed(duration_of(container))
    except MediaError as error:
        return Probed(field=error.field, reason=error.reason)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return Probed(field="container", reason=f"cannot be opened: {error}")


def _middle(duration: float) -> float:
    return max(0.0, (duration - _SPEC.seconds) / 2)
