"""One window of a video: frames at a steady rate and the sound of the same time.

Shapes: T frames, S side of the square picture, L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vatt.clip import InputConfig
from vatt.data.decode.audio import PREROLL, Sound
from vatt.data.decode.container import (
    BACK,
    MAY_END_EARLY,
    ROUNDING,
    ChooseStart,
    Media,
    MediaError,
    Opened,
    breaks_off,
    open_windows,
)
from vatt.data.decode.pictures import Behind, Pictures
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.skipping import needs_all
from vatt.data.decode.torchcodec import read_frames
from vatt.data.decode.view import FrameWriter, View

_FRAGMENT = 10.0  # seconds of a fragment (.mp4) or cluster (.mkv), at most
_SOUND_LATE = 1.0  # seconds of film after the window that are read on for its sound, before that is looked for alone


@dataclass(frozen=True)
class Window:
    """What was decoded: frames uint8 (T, S, S, 3), sound float32 (L,) or None where the file has none, or none that
    decodes, as ``lost`` says."""

    frames_TSS3: np.ndarray
    audio_L: np.ndarray | None
    start: float
    lost: str = ""


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
    """A window that has been written.

    Attributes:
        start: where it begins in the source, seconds.
        has_sound: whether that has sound, which decodes for the most part.
        lost: why sound that is there does not.
    """

    start: float
    has_sound: bool
    lost: str = ""


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
    return Window(frames_TSS3, audio_L if written.has_sound else None, written.start, written.lost)


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


def decode_windows(
    media: Media,
    wanted: Sequence[Wanted],
    spec: InputConfig,
    timeout: float = 30.0,
    decoder: str = "pyav",
    *,
    once: bool = False,
) -> list[Written]:
    """Decodes several windows of one clip, opened once; where one is written, and how frames are chosen, see `Wanted`,
    `decode_window`. The time limit is for each. ``decoder`` is one of `DECODERS`.

    Args:
        once: of windows that begin at one time, writes only the first.

    Raises:
        MediaError: as `decode_window`.
        DecoderError: the decoder cannot run here.
    """
    found: dict[int, Written] = {}
    chosen = [one.choose_start for one in wanted]
    first_at: dict[float, int] = {}
    with open_windows(media, chosen, spec.seconds, timeout, "video") as windows:
        for number, opened in windows:
            if once and (first := first_at.setdefault(opened.start, number)) != number:
                found[number] = found[first]
                continue
            out_L = wanted[number].audio_L
            has_sound = out_L is not None and opened.audio is not None and opened.audio.codec_context is not None
            sound = Sound(opened, spec) if has_sound else None
            if decoder == "pyav" or not read_frames(decoder, opened, wanted[number].writers, spec):
                read_window(opened, wanted[number].writers, spec, sound)
            elif sound is not None:
                sound.read()
            if sound is not None and out_L is not None:
                sound.write(out_L)
                has_sound = not sound.lost
            found[number] = Written(opened.start, has_sound, sound.lost if sound is not None else "")
    return [found[number] for number in range(len(wanted))]


def read_window(opened: Opened, writers: Sequence[FrameWriter], spec: InputConfig, sound: Sound | None) -> None:
    """Gives the frames of the window to the writers and packets to the sound, in one pass where the file allows.

    Raises:
        MediaError: as `decode_window`.
    """
    for attempt, back in enumerate(BACK):
        if opened.video is None:
            raise MediaError(opened.name, "video", "the file has no video stream")
        if opened.video.codec_context is None:
            raise MediaError(opened.name, "video", "this FFmpeg has no decoder for it")
        begin = None if back is None or needs_all(opened.video) else opened.at - back - (PREROLL if sound else 0.0)
        from_start = opened.seek(begin, opened.video)
        pictures = _pictures(opened, writers, spec, from_start, cut=attempt == 0)
        if sound is not None:
            sound.begin(from_start)
        try:
            ended = _pass(opened, pictures, sound)
        except Behind:
            continue
        _check(opened, pictures, spec, ended)
        if sound is not None and not sound.is_complete(ended):
            sound.read()
        return


def _pictures(
    opened: Opened, writers: Sequence[FrameWriter], spec: InputConfig, from_start: bool, cut: bool
) -> Pictures:
    moments = opened.at + (np.arange(spec.frames) + 0.5) / spec.fps + ROUNDING
    options = {"from_start": from_start, "cut": cut}
    return Pictures(opened.container, opened.video, opened.origin, moments.tolist(), writers, **options)


def _pass(opened: Opened, pictures: Pictures, sound: Sound | None) -> bool:
    """Reads until nothing more is needed; True: to the end of the file. Raises Behind."""
    video: Any = opened.video
    index = video.index
    streams = [video] if sound is None else [video, sound.stream]
    for packet in opened.packets(*streams):
        if packet.stream_index == index:
            pictures.take(packet)
        elif sound is not None:
            sound.take(packet)
        if pictures.done and (sound is None or sound.done or pictures.front > sound.end + _SOUND_LATE):
            return False
    pictures.end()
    return True


def _check(opened: Opened, pictures: Pictures, spec: InputConfig, ended: bool) -> None:
    """Raises MediaError: frames are missing at the end of the window."""
    if pictures.missing:
        raise MediaError(opened.name, "video", f"no frame could be decoded{pictures.failure}")
    early = max(MAY_END_EARLY, 2 * pictures.step)
    if pictures.last + early < pictures.promised:  # there are packets, which do not decode
        raise MediaError(opened.name, "video", breaks_off(opened, pictures.last))
    stream: Any = opened.video
    own = float(stream.duration * stream.time_base) + pictures.first if stream.duration else 0.0
    whole = own or opened.duration or pictures.last
    needed = min(whole, opened.at + spec.seconds) - 1 / spec.fps
    shown = pictures.reached if pictures.last + ROUNDING >= pictures.promised else pictures.last + pictures.step
    if not ended or shown + pictures.step / 2 >= min(whole, pictures.moments[-1]) or opened.is_cut_off is False:
        return  # of a file that is whole, the last frame is held
    cut = (
        bool(own) and opened.is_cut_off is True
    )  # only where the length is the film's own, it says exactly what is gone
    if not cut and pictures.reached + early >= needed:
        return
    # Of a file that is cut off, the sound of the last fragment may be there without its picture.
    if not _sound_goes_on(opened, needed + _FRAGMENT if cut else needed):
        raise MediaError(opened.name, "video", breaks_off(opened, pictures.last))


def _sound_goes_on(opened: Opened, until: float) -> bool:
    """Whether there is sound where the film has ended already: then the file is whole, and only the film shorter."""
    stream: Any = opened.audio
    if stream is None:
        return False
    opened.seek(until - MAY_END_EARLY, stream)
    base = float(opened.audio.time_base or 0) if opened.audio else 0.0
    packets = opened.packets(opened.audio)
    return any((p.pts or 0) * base - opened.origin + MAY_END_EARLY >= until for p in packets)
