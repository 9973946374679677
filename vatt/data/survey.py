"""What a data set is like, before a run begins: clips are counted from its table, and some, evenly chosen, are opened.

The same data give the same survey, as long as the time for it is enough. Files are opened in processes of their own, so
one that crashes or hangs a decoder is counted as broken, and nothing else happens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.caption_words import names_hue, tells_left_from_right
from vatt.data.clips import Clip, ClipTable, count_captioned
from vatt.data.decode import (
    MediaError,
    RgbFrames,
    TimeLimit,
    Wanted,
    decode_sounds,
    decode_windows,
    duration_of,
    film_of,
    is_silent,
    open_media,
)
from vatt.data.reading import bad_clip
from vatt.data.shards.storage import is_url
from vatt.data.windows import check_start, window_start
from vatt.isolated import Failed, run_isolated

MOST = 48  # clips that are opened
SECONDS = 20.0  # after which no further one is opened
_EACH = 10.0  # seconds for one clip
_READ = 1000  # clips whose captions are read
_SENTENCES = 20  # of each of them
_SIDE = 112  # pixels to which pictures are decoded, for the time that it takes
_PLACES = (0.0, 1.0)  # windows that are listened to where the one in the middle is silent


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        clips, videos: in the table, and the files that they are of.
        captioned: clips with captions, in the table.
        read: clips whose captions were read: the next four are theirs.
        captions, words: median number of captions of a clip that has any, and of words of a caption.
        left_right, hues: shares (0 to 1) of captions that a mirrored picture, or turned hues, would belie.
        looked_at: clips that were looked at, those that are broken among them.
        broken: why those could not be read.
        seconds: of each of the others, sorted; 0 where that is not known.
        with_sound, silent: how many of the others have sound, and of how many of those it is silence. ``heard``:
            whether anybody listened; the index of remote shards tells of sound alone.
        height, width: pixels, medians; 0 where they are not known. Shards tell their shorter side, as height.
        reading: CPU seconds to decode one window of one clip, median; 0 where that is not known. It differs from
            survey to survey.
    """

    clips: int
    videos: int
    captioned: int
    read: int = 0
    captions: float = 0.0
    words: float = 0.0
    left_right: float = 0.0
    hues: float = 0.0
    looked_at: int = 0
    broken: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()
    with_sound: int = 0
    silent: int = 0
    heard: bool = True
    height: int = 0
    width: int = 0
    reading: float = field(default=0.0, compare=False)

    @property
    def good(self) -> int:
        """Clips that were looked at and can be read."""
        return self.looked_at - len(self.broken)

    @property
    def sound(self) -> float:
        """The share of clips with sound that is more than silence; 1 where none was looked at."""
        return (self.with_sound - self.silent) / self.good if self.good else 1.0

    @property
    def typical(self) -> float:
        """Median seconds of a clip; 0 where that is not known."""
        known = [seconds for seconds in self.seconds if seconds]
        return median(known) if known else 0.0

    def windows(self, seconds: float) -> int:
        """About how many windows of ``seconds`` all clips have that do not overlap; each has one at least."""
        counts = [max(1, int(found / seconds + 1e-6)) for found in self.seconds] or [1]
        return round(self.clips * sum(counts) / len(counts))

    def line(self) -> str:
        """In words."""
        parts = [f"{self.clips:,} clips" + (f" of {self.videos:,} files" if self.videos != self.clips else "")]
        if known := [seconds for seconds in self.seconds if seconds]:
            ends = f" ({known[0]:.3g} to {known[-1]:.3g})" if f"{known[0]:.3g}" != f"{known[-1]:.3g}" else ""
            parts.append(f"{self.typical:.3g} s each{ends}")
        if self.height:
            size = f"{self.width} x {self.height} pixels" if self.width else f"{self.height} pixels on the shorter side"
            parts.append(size)
        captions = f"captions {_percent(self.captioned / self.clips)}"
        if self.captioned:
            captions += f" ({self.captions:g} a clip, {self.words:g} words each)"
        parts.append(captions)
        if self.good:
            sound = f"sound {_percent(self.with_sound / self.good)}"
            if self.silent:
                sound += f", of which {_percent(self.silent / self.with_sound)} silent"
            parts.append(sound + ("" if self.heard else ", not listened to"))
        looked = f"{self.looked_at} looked at"
        if self.broken:
            looked += f", {len(self.broken)} of them broken ({self.broken[0]})"
        return f"{', '.join(parts)}; {looked}"


@dataclass(frozen=True)
class _Item:
    """A clip to look at, by its number among those."""

    number: int
    clip: Clip
    spec: InputConfig
    listen: bool


@dataclass(frozen=True)
class Look:
    """What one clip is like; ``fault``: why it cannot be read."""

    seconds: float = 0.0
    sound: bool = False
    silent: bool = False
    height: int = 0
    width: int = 0
    reading: float = 0.0
    fault: str = ""


def survey(
    data: Mapping[str, Sequence[Clip]],
    spec: InputConfig,
    *,
    workers: int = 2,
    most: int = MOST,
    seconds: float = SECONDS,
) -> Survey:
    """Looks at data sets, by their names.

    Args:
        spec: the windows of a model.
        workers: processes.
        most: clips that are opened; as many from all data sets together; 0: none.
        seconds: after which no further one is opened; each clip may take 10.

    Raises:
        StartError: no process can be started.
    """
    count = sum(map(len, data.values()))
    found = Survey(count, count_videos(data.values()), sum(map(count_captioned, data.values())))
    found = _with_captions(found, data)
    return _with_looks(found, _looks(data, replace(spec, size=_SIDE), workers, most, seconds))


def evenly(data: Mapping[str, Sequence[Clip]], most: int) -> Iterator[tuple[str, Clip]]:
    """At most so many clips, evenly spread over all data sets, with the names of those. A clip whose line cannot be
    read any more is left out."""
    count, before = sum(map(len, data.values())), 0
    chosen = sorted({i * count // min(most, count) for i in range(min(most, count))})
    for name, clips in data.items():
        for number in (i - before for i in chosen if before <= i < before + len(clips)):
            with suppress(Exception):  # told when it is read
                yield name, clips[number]
        before += len(clips)


def count_videos(sets: Iterable[Sequence[Clip]]) -> int:
    """The files that the clips of all data sets are of."""
    return sum(
        len(np.unique(clips.digests())) if isinstance(clips, ClipTable) else len({clip.video for clip in clips})
        for clips in sets
    )


def _with_captions(found: Survey, data: Mapping[str, Sequence[Clip]]) -> Survey:
    counts, words, read = [], [], 0
    left_right = hues = 0
    for _, clip in evenly(data, _READ):
        read += 1
        captions = tuple(clip.captions)
        if not captions:
            continue
        counts.append(len(captions))
        step = max(1, len(captions) // _SENTENCES)
        for caption in captions[::step][:_SENTENCES]:
            words.append(len(caption.text.split()))
            left_right += tells_left_from_right(caption.text)
            hues += names_hue(caption.text)
    if not counts:
        return replace(found, read=read)
    found = replace(found, read=read, captions=float(median(counts)), words=float(median(words)))
    return replace(found, left_right=left_right / len(words), hues=hues / len(words))


def _with_looks(found: Survey, looks: list[Look]) -> Survey:
    good = [one for one in looks if not one.fault]
    sizes = [one for one in good if one.height]
    times = [one.reading for one in good if one.reading]
    return replace(
        found,
        looked_at=len(looks),
        broken=tuple(one.fault for one in looks if one.fault),
        seconds=tuple(sorted(round(one.seconds, 3) for one in good)),
        with_sound=sum(one.sound for one in good),
        silent=sum(one.silent for one in good),
        heard=not good or any(one.reading for one in good),
        height=int(median(one.height for one in sizes)) if sizes else 0,
        width=int(median(one.width for one in sizes)) if sizes else 0,
        reading=median(times) if times else 0.0,
    )


def _looks(
    data: Mapping[str, Sequence[Clip]], spec: InputConfig, workers: int, most: int, seconds: float
) -> list[Look]:
    until = time.monotonic() + seconds

    def items() -> Iterator[_Item]:
        for number, (name, clip) in enumerate(evenly(data, most)):
            if time.monotonic() > until:
                return
            yield _Item(number, clip, spec, listen=not is_url(name))

    looks: dict[int, Look] = {}
    if most < 1:
        return []
    workers = min(workers, most, sum(map(len, data.values())))
    for item, result in run_isolated(look, items(), workers=workers, seconds=2 * _EACH, fork=True):
        if isinstance(result, Failed):
            result = Look(fault=f"{item.clip.video}: {result.reason}")
        looks[item.number] = result
    return [looks[number] for number in sorted(looks)]


def look(item: _Item) -> Look:
    """Opens one clip, decodes the window in its middle and listens to it. Does not raise for a bad file."""
    clip, spec = item.clip, item.spec
    try:
        found = _of_packed(clip) if clip.packed is not None else _of_file(clip)
        if not item.listen:
            return found
        began = time.process_time()
        audio_L = np.zeros(spec.samples, np.float32)
        if clip.kind == "video":
            frames = np.empty((spec.frames, spec.size, spec.size, 3), np.uint8)
            wanted = Wanted(_at(clip, spec, 0.5), [RgbFrames(CentreView(), frames)], audio_L)
            decode_windows(clip.media, [wanted], spec, _EACH)
        elif clip.kind == "audio":
            decode_sounds(clip.media, [_at(clip, spec, 0.5)], [audio_L], spec, _EACH)
        found = replace(found, reading=max(time.process_time() - began, 1e-6))
        return replace(found, silent=found.sound and _is_silent(clip, spec, audio_L))
    except Exception as error:
        return Look(fault=str(bad_clip(error, clip.video)))


def _at(clip: Clip, spec: InputConfig, position: float) -> Any:
    def choose(duration: float) -> float:
        check_start(clip, duration)
        return window_start(clip, duration, spec, position)

    return choose


def _is_silent(clip: Clip, spec: InputConfig, audio_L: np.ndarray) -> bool:
    """Whether there is nothing to hear in the window of the middle, nor in the first and the last one."""
    if not is_silent(audio_L):
        return False
    for position in _PLACES:
        with suppress(MediaError):  # sound may end before the picture
            decode_sounds(clip.media, [_at(clip, spec, position)], [audio_L], spec, _EACH)
            if not is_silent(audio_L):
                return False
    return True


def _of_file(clip: Clip) -> Look:
    with open_media(clip.video, clip.kind, limit=TimeLimit(clip.video, _EACH)) as container:
        duration = 0.0 if clip.kind == "image" else duration_of(container, clip.video)
        video = film_of(container)
        height, width = (video.height, video.width) if video is not None else (0, 0)
        return Look(_range(clip, duration), bool(container.streams.audio), height=height or 0, width=width or 0)


def _of_packed(clip: Clip) -> Look:
    packed = clip.packed
    assert packed is not None
    return Look(_range(clip, packed.duration), packed.sound is not None, height=packed.packing.size)


def _range(clip: Clip, duration: float) -> float:
    """Seconds of the part of the file that the clip is."""
    end = duration if clip.end is None else min(clip.end, duration) if duration else clip.end
    return max(0.0, end - (clip.start or 0.0))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share in (0, 1) or 0.01 <= share <= 0.99 else f"{100 * share:.2g}%"
