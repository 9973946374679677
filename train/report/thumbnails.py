"""Small pictures of clips for the report: three frames in a row, as JPEG in a data URI."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path

import numpy as np

from vatt.clip import InputConfig
from vatt.data import Clip
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_window
from vatt.data.samples import window_start

_PLACES = (0.1, 0.5, 0.9)  # of the clip
_SIDE, _GAP = 96, 3  # pixels
_INPUT = InputConfig(frames=1, fps=10.0, size=_SIDE, sample_rate=8000)


class Thumbnails:
    """Strips of clips; one that was asked for before is not decoded again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, float | None, float | None], str | None] = {}

    def __call__(self, video: str, start: float | None, end: float | None) -> str | None:
        """A data URI (JPEG, three centre crops side by side), or None for a clip that cannot be decoded any more."""
        key = (video, start, end)
        if key not in self._known:
            self._known[key] = _strip(Clip(Path(video), start, end))
        return self._known[key]


def _strip(clip: Clip) -> str | None:
    try:
        frames = [decode_window(clip.video, partial(_start, clip, place), CentreView(), _INPUT) for place in _PLACES]
    except MediaError:
        return None
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    row = [part for frame in frames for part in (frame.frames_TSS3[0], gap)][:-1]
    return data_uri("image/jpeg", _jpeg(np.concatenate(row, axis=1)))


def _start(clip: Clip, place: float, duration: float) -> float:
    return window_start(clip, duration, _INPUT.seconds, place)


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image  # a dependency of Matplotlib

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=80)
    return out.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
