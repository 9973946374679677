"""Windows over whole files: where they begin, and reading them, in groups that go through a model together.

Windows of one film overlap; a stretch of them is decoded once. Shapes: C windows of a group, T frames of a window, S
side, L samples. Moments are counted in frames of the model (1 / fps seconds) where they must be exact.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vatt.clip import MOST_VALUES, InputConfig
from vatt.data.augment import CentreView
from vatt.data.batches import Filled, Plan, Rows, patience, read_here
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import (
    ChooseStart,
    MediaError,
    RgbFrames,
    Wanted,
    decode_sounds,
    decode_windows,
    is_silent,
    write_picture,
)
from vatt.data.reading import bad_clip
from vatt.data.samples import Layout
from vatt.data.slots import NoRoom, fit_prefetch
from vatt.data.windows import window_start
from vatt.data.workers import Pool
from vatt.memory import free_memory
from vatt.search.listing import Entry, Range, path_of
from vatt.search.probing import Probed

MOST_WINDOWS = 200_000  # of a file: 89 hours of windows of 3.2 s; a header may claim any length
_NEAR = 1e-6  # of a frame: what a time that is meant to lie on the grid may lie beside it
_HASHED = 1 << 22  # bytes that are read at a time
Fault = dict[str, Any]  # {"start", "field", "reason"}; start is None for the whole file


def window_starts(ranges: Sequence[Range], seconds: float, spec: InputConfig, hop: int) -> list[int]:
    """Where the windows of a file begin, in frames: every ``hop`` frames of each range, and one that ends where it
    ends.

    A range, or a file, that is shorter than a window has one.

    Args:
        seconds: of the file; 0: not known, one window.
    """
    found: list[int] = []
    for first, last in ranges:
        begin = math.ceil((first or 0.0) * spec.fps - _NEAR)
        end = min(seconds, last) if last is not None and seconds else seconds
        final = math.floor((end - spec.seconds) * spec.fps + _NEAR)
        if not seconds or final <= begin:
            clip = Clip(Path(), first, last)
            found.append(round(window_start(clip, seconds, spec, 0.5) * spec.fps))
            continue
        found += range(begin, min(final, begin + hop * MOST_WINDOWS) + 1, hop)
        if found[-1] < final:
            found.append(final)
    return sorted(set(found))[:MOST_WINDOWS]


@dataclass(frozen=True)
class Stretch:
    """Windows of one file, one after the other.

    Attributes:
        entry: its place in the list of what is to be indexed.
        first: the number of the first among the windows of the file.
        starts: of the windows, frames.
    """

    entry: int
    first: int
    starts: tuple[int, ...]

    def frames(self, spec: InputConfig) -> int:
        """Frames from the beginning of the first window to the end of the last."""
        return self.starts[-1] - self.starts[0] + spec.frames


Group = tuple[Stretch, ...]


def make_groups(todo: Sequence[tuple[int, int, Sequence[int]]], size: int, spec: InputConfig) -> Iterator[Group]:
    """Groups of ``size`` windows, filled one after the other, so that what is left of a list after some of them gives
    the same groups as the whole list did.

    Args:
        todo: the entry, the number of its first window that is left, and where all of its windows begin.
    """
    group: list[Stretch] = []
    room, most = size, min(4096, MOST_VALUES // (3 * spec.size**2))  # as `InputConfig` has it
    for entry, first, starts in todo:
        at = first
        while at < len(starts):
            count = 1
            while (
                count < room
                and at + count < len(starts)
                and starts[at + count] - starts[at + count - 1] <= spec.frames  # none is decoded for nothing
                and starts[at + count] - starts[at] + spec.frames <= most
            ):
                count += 1
            group.append(Stretch(entry, at, tuple(starts[at : at + count])))
            room, at = room - count, at + count
            if not room:
                yield tuple(group)
                group, room = [], size
    if group:
        yield tuple(group)


@dataclass
class Seen:
    """What reading a stretch gave.

    Attributes:
        good: numbers of the windows, counted from the first of the stretch, that could be read.
        at: where each of them begins among the frames of the group; of sounds, 0.
        picture: whether there are frames.
        heard: whether each has a sound that is not silent.
        sha256: of the file, with its first window.
    """

    good: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    picture: bool = False
    heard: list[bool] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sha256: str = ""


@dataclass(frozen=True)
class ReadGroups:
    """Reads groups, see `vatt.data.workers.Work`: one row of "frames" (C * T, S, S, 3) and "audio" (C, L) each."""

    entries: Sequence[Entry]
    probed: Mapping[int, Probed]
    groups: Sequence[Group]
    size: int
    spec: InputConfig
    timeout: float

    def layout(self) -> Layout:
        """Of a group."""
        spec = self.spec
        return {
            "frames": ((self.size * spec.frames, spec.size, spec.size, 3), torch.uint8),
            "audio": ((self.size, spec.samples), torch.float32),
        }

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> list[Seen]:
        """Each stretch is an attempt: one that ends the process costs its own windows alone."""
        frames, audio_CL = rows["frames"][0].numpy(), rows["audio"][0].numpy()
        found, at, window = [], 0, 0
        for number, stretch in enumerate(self.groups[task]):
            count = len(stretch.starts)
            begin(number)
            if number in lost:
                reason = {"start": None, "field": "decode", "reason": lost[number]}
                seen = Seen(faults=[reason | {"start": start / self.spec.fps} for start in stretch.starts])
            else:
                place = frames[at : at + stretch.frames(self.spec)]
                seen = self._read(stretch, place, audio_CL[window : window + count], partial(begin, number))
            seen.at = [at + start for start in seen.at]
            found.append(seen)
            at, window = at + stretch.frames(self.spec), window + count
        return found

    def _read(self, stretch: Stretch, frames: np.ndarray, audio_CL: np.ndarray, alive: Callable[[], None]) -> Seen:
        entry = self.entries[stretch.entry]
        seen = Seen(sha256=entry.sha256)
        try:
            if stretch.first == 0 and isinstance(entry.media, Path):
                seen.sha256 = digest_of(entry.media, alive)
            together = isinstance(entry.media, Path) and entry.kind == "video" and len(stretch.starts) > 1
            if not together or not self._read_film(entry, stretch, frames, audio_CL, seen):
                for number in range(len(stretch.starts)):
                    alive()
                    self._read_one(entry, stretch, number, frames, audio_CL, seen)
            _check_unchanged(entry)
        except Exception as error:
            bad = bad_clip(error, path_of(entry))
            fault = {"start": None, "field": bad.field, "reason": bad.reason}
            return Seen(
                faults=[fault | {"start": start / self.spec.fps} for start in stretch.starts], sha256=seen.sha256
            )
        return seen

    def _read_film(self, entry: Entry, stretch: Stretch, frames: np.ndarray, audio_CL: np.ndarray, seen: Seen) -> bool:
        """All windows of a film as one long one. False: that cannot be read, but each window alone may be."""
        if not self.probed[stretch.entry].picture:
            return False
        spec, count = self.spec, len(stretch.starts)
        try:
            whole = replace(spec, frames=len(frames))
            sound_L = np.empty(whole.samples, np.float32) if self.probed[stretch.entry].sound else None
            begin = stretch.starts[0] / spec.fps
            wanted = Wanted(lambda duration: begin, [RgbFrames(CentreView(), frames)], sound_L)
            (written,) = decode_windows(entry.media, [wanted], whole, self.timeout * count)
        except Exception as error:
            bad_clip(error, path_of(entry))  # raises what is no fault of the file
            return False
        for number, start in enumerate(stretch.starts):
            at = start - stretch.starts[0]
            heard = False
            if sound_L is not None and written.has_sound:
                first = round(at / spec.fps * spec.sample_rate)
                part_L = sound_L[first : first + spec.samples]
                audio_CL[number, : len(part_L)] = part_L
                audio_CL[number, len(part_L) :] = 0
                heard = not is_silent(part_L)
            _add(seen, number, at, heard)
        seen.picture = True
        return True

    def _read_one(
        self, entry: Entry, stretch: Stretch, number: int, frames: np.ndarray, audio_CL: np.ndarray, seen: Seen
    ) -> None:
        """One window of any file into its place; what is wrong with it goes to ``seen``."""
        spec, start = self.spec, stretch.starts[number]
        at, has = start - stretch.starts[0], self.probed[stretch.entry]
        place, begin = frames[at : at + spec.frames], start / spec.fps
        if len(stretch.starts) > 1 and has.picture:
            place = np.empty_like(place)  # one that cannot be read leaves alone what it shares with the one before
        heard = False
        try:
            if entry.kind == "image":
                write_picture(entry.media, [RgbFrames(CentreView(), place)], spec, self.timeout)
            elif has.picture:
                sound_L = audio_CL[number] if has.sound else None
                wanted = Wanted(lambda duration: begin, [RgbFrames(CentreView(), place)], sound_L)
                (written,) = decode_windows(entry.media, [wanted], spec, self.timeout)
                heard = written.has_sound and sound_L is not None and not is_silent(sound_L)
            else:
                choose: ChooseStart = lambda duration: begin  # noqa: E731
                decode_sounds(entry.media, [choose], [audio_CL[number]], spec, self.timeout)
                heard = not is_silent(audio_CL[number])
        except Exception as error:
            bad = bad_clip(error, path_of(entry))
            seen.faults.append({"start": begin, "field": bad.field, "reason": bad.reason})
            return
        if has.picture:
            frames[at : at + spec.frames] = place
        _add(seen, number, at, heard)
        seen.picture = has.picture


def _add(seen: Seen, number: int, at: int, heard: bool) -> None:
    seen.good.append(number)
    seen.at.append(at)
    seen.heard.append(heard)


def _check_unchanged(entry: Entry) -> None:
    if isinstance(entry.media, Path):
        found = os.stat(entry.media)
        if (found.st_size, found.st_mtime_ns) != (entry.size, entry.mtime):
            raise MediaError(entry.media, "file", "was changed while it was read")


def digest_of(path: Path, alive: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED):
            digest.update(chunk)
            alive()
    return digest.hexdigest()


def read_groups(
    work: ReadGroups, config: DataConfig, processes: int = 1
) -> Iterator[tuple[dict[str, Tensor], list[Seen]]]:
    """The groups in order, read by ``config.workers`` processes, or by this one where memory is short.

    Args:
        processes: that do the same on this machine, and share what memory is free.
    """
    plan = Plan(work.layout(), 1, 1, len(work.groups))
    workers = min(config.workers, len(work.groups))
    ready = 0
    if workers:
        try:
            ready, _ = fit_prefetch(workers + 1, plan.batch_bytes, workers, processes, free_memory())
        except NoRoom:
            workers = 0
    if not workers:
        yield from map(_unpacked, read_here(work, plan))
        return
    alive = patience(config.decode_timeout, 2 * work.size)
    with closing(Pool(work, plan, ready=ready, workers=workers, alive=alive)) as pool:
        yield from map(_unpacked, pool)


def _unpacked(filled: Filled) -> tuple[dict[str, Tensor], list[Seen]]:
    rows, (answer,) = filled
    return {name: x[0] for name, x in rows.items()}, answer
