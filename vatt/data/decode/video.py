"""One window of a video: frames at a steady rate and the sound of the same time.

Shapes: T frames, S side of the square picture, L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.audio import read_sound
from vatt.data.decode.container import (
    MAY_END_EARLY,
    ROUNDING,
    ChooseStart,
    Media,
    MediaError,
    Opened,
    breaks_off,
    frames_from,
    open_window,
)
from vatt.data.decode.image import Scaler, View


@dataclass(frozen=True)
class Window:
    """What was decoded: frames uint8 (T, S, S, 3), sound float32 (L,) or None where the file has none."""

    frames_TSS3: np.ndarray
    audio_L: np.ndarray | None
    start: float


def decode_window(
    media: Media,
    choose_start: ChooseStart,
    view: View,
    spec: InputConfig,
    timeout: float = 30.0,
    out_TSS3: np.ndarray | None = None,
    out_L: np.ndarray | None = None,
) -> Window:
    """Decodes the window that ``choose_start`` picks, into ``out_TSS3`` and ``out_L`` where these are given.

    A frame is the last one shown at the middle of its interval, whatever the frame rate or its variation. The picture
    is rotated as its metadata say, cropped, scaled to S x S and changed as ``view`` asks. Sound is mixed to mono and
    resampled; it is 0 where the file has none for a part of the window. A window that reaches past the end repeats the
    last frame.

    Raises:
        MediaError: no regular file, not a media file, no video, shorter than half a second, no frame that can be
            decoded, the stream ends long before the header says, or the time limit.
    """
    with open_window(media, choose_start, spec.seconds, timeout, "video") as opened:
        (frames_TSS3,) = _read_frames(opened, [view], spec, [out_TSS3])
        audio_L = read_sound(opened, spec, out_L)[0] if opened.container.streams.audio else None
    return Window(frames_TSS3, audio_L, opened.start)


def decode_views(
    media: Media,
    choose_start: ChooseStart,
    views: Sequence[View],
    spec: InputConfig,
    timeout: float = 30.0,
    outs: Sequence[np.ndarray | None] | None = None,
) -> list[np.ndarray]:
    """The frames of one window as each of ``views`` sees them, uint8 (T, S, S, 3) each, decoded once; no sound.

    In the arrays ``outs`` where these are given.

    Raises:
        MediaError: as `decode_window`.
    """
    with open_window(media, choose_start, spec.seconds, timeout, "video") as opened:
        return _read_frames(opened, views, spec, outs if outs is not None else [None] * len(views))


def _read_frames(
    opened: Opened, views: Sequence[View], spec: InputConfig, given: Sequence[np.ndarray | None]
) -> list[np.ndarray]:
    """The frames of the window, uint8 (T, S, S, 3) for each view; in the arrays ``given`` where there are some."""
    if not opened.container.streams.video:
        raise MediaError(opened.name, "video", "the file has no video stream")
    shape = (spec.frames, spec.size, spec.size, 3)
    outs = [np.empty(shape, np.uint8) if out is None else out for out in given]
    times = opened.at + (np.arange(spec.frames) + 0.5) / spec.fps + ROUNDING
    scalers = [Scaler(view, spec.size) for view in views]
    shown: VideoFrame | None = None
    filled, last = 0, 0.0
    for frame in frames_from(opened, "video", opened.at):
        if frame.pts is None:
            continue
        last = frame.time - opened.origin
        due = int(np.searchsorted(times, last))  # moments before this frame belong to the one shown until now
        if shown is not None and due > filled:
            for out, scaler in zip(outs, scalers, strict=True):
                out[filled:due] = scaler(shown)
            filled = due
        shown = frame
        if filled == spec.frames:
            return outs
    if shown is None:
        raise MediaError(opened.name, "video", "no frame could be decoded")
    needed = min(opened.duration or last, opened.at + spec.seconds)
    if last + MAY_END_EARLY < needed - 1 / spec.fps:
        raise MediaError(opened.name, "video", breaks_off(opened, last))
    for out, scaler in zip(outs, scalers, strict=True):
        out[filled:] = scaler(shown)
    return outs
