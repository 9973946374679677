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
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.view import FrameWriter, View


@dataclass(frozen=True)
class Window:
    """What was decoded: frames uint8 (T, S, S, 3), sound float32 (L,) or None where the file has none."""

    frames_TSS3: np.ndarray
    audio_L: np.ndarray | None
    start: float


@dataclass(frozen=True)
class Wanted:
    """A window that is wanted of a clip.

    Attributes:
        choose_start: picks it.
        writers: take its frames.
        audio_L: takes its sound, float32 (L,); None if it is not wanted.
    """

    choose_start: ChooseStart
    writers: Sequence[FrameWriter]
    audio_L: np.ndarray | None = None


@dataclass(frozen=True)
class Written:
    """A window that has been written: where it begins in the source, seconds, and whether that has sound."""

    start: float
    has_sound: bool


def decode_window(
    media: Media, choose_start: ChooseStart, view: View, spec: InputConfig, timeout: float = 30.0
) -> Window:
    """Decodes the window that ``choose_start`` picks, as RGB.

    A frame is the last one shown at the middle of its interval, whatever the frame rate or its variation. The picture
    is rotated as its metadata say, cropped, scaled to S x S and changed as ``view`` asks. Sound is mixed to mono and
    resampled; it is 0 where the file has none for a part of the window. A window that reaches past the end repeats the
    last frame.

    Raises:
        MediaError: no regular file, not a media file, no video, shorter than half a second, no frame that can be
            decoded, the stream ends long before the header says, or the time limit.
    """
    frames_TSS3, audio_L = _empty(spec), np.empty(spec.samples, np.float32)
    wanted = Wanted(choose_start, [RgbFrames(view, frames_TSS3)], audio_L)
    (written,) = decode_windows(media, [wanted], spec, timeout)
    return Window(frames_TSS3, audio_L if written.has_sound else None, written.start)


def decode_views(
    media: Media, choose_start: ChooseStart, views: Sequence[View], spec: InputConfig, timeout: float = 30.0
) -> list[np.ndarray]:
    """The frames of one window as each of ``views`` sees them, uint8 (T, S, S, 3) each, decoded once; no sound.

    Raises:
        MediaError: as `decode_window`.
    """
    outs = [_empty(spec) for _ in views]
    writers = [RgbFrames(view, out_TSS3) for view, out_TSS3 in zip(views, outs, strict=True)]
    decode_windows(media, [Wanted(choose_start, writers)], spec, timeout)
    return outs


def _empty(spec: InputConfig) -> np.ndarray:
    return np.empty((spec.frames, spec.size, spec.size, 3), np.uint8)


def decode_windows(media: Media, wanted: Sequence[Wanted], spec: InputConfig, timeout: float = 30.0) -> list[Written]:
    """Decodes several windows of one clip; where one writes, and how frames are chosen, see `Wanted`, `decode_window`.

    Raises:
        MediaError: as `decode_window`.
    """
    found = []
    for one in wanted:
        with open_window(media, one.choose_start, spec.seconds, timeout, "video") as opened:
            _read_frames(opened, one.writers, spec)
            has_sound = one.audio_L is not None and bool(opened.container.streams.audio)
            if has_sound:
                read_sound(opened, spec, one.audio_L)
            found.append(Written(opened.start, has_sound))
    return found


def _read_frames(opened: Opened, writers: Sequence[FrameWriter], spec: InputConfig) -> None:
    """Gives the frames of the window to the writers."""
    if not opened.container.streams.video:
        raise MediaError(opened.name, "video", "the file has no video stream")
    times = opened.at + (np.arange(spec.frames) + 0.5) / spec.fps + ROUNDING
    shown: VideoFrame | None = None
    filled, last = 0, 0.0
    for frame in frames_from(opened, "video", opened.at):
        if frame.pts is None:
            continue
        last = frame.time - opened.origin
        due = int(np.searchsorted(times, last))  # moments before this frame belong to the one shown until now
        if shown is not None and due > filled:
            for writer in writers:
                writer.write(shown, filled, due)
            filled = due
        shown = frame
        if filled == spec.frames:
            return
    if shown is None:
        raise MediaError(opened.name, "video", "no frame could be decoded")
    needed = min(opened.duration or last, opened.at + spec.seconds)
    if last + MAY_END_EARLY < needed - 1 / spec.fps:
        raise MediaError(opened.name, "video", breaks_off(opened, last))
    for writer in writers:
        writer.write(shown, filled, spec.frames)
