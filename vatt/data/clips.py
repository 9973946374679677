"""Clips: the items of a data set, however it is written down; and which of them are held out for evaluation."""

from __future__ import annotations

import hashlib
import logging
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from vatt.clip import InputConfig
from vatt.data.captions import Caption
from vatt.data.decode import Packed, Packing
from vatt.errors import UserError

TRAIN = ("train", "", None)  # splits, in lower case
HELD_OUT = ("val", "valid", "validation", "test")
_NEAR = 1e-6  # of seconds and rates that were written as decimals


logger = logging.getLogger(__name__)


class ManifestError(UserError, ValueError):
    """A data set that cannot be used. The message names the file, the line and the column."""


@dataclass(frozen=True)
class Clip:
    """One item of a data set: a video, or a range of it (seconds), and the narration of the whole video.

    ``video`` is the media file, whatever its ``kind``: a video, a sound file ("audio") or a picture ("image").
    What a model reads of a clip, `vatt.clip.InputConfig` says.
    """

    video: Path
    start: float | None = None
    end: float | None = None
    captions: Sequence[Caption] = ()
    label: str | None = None
    split: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    kind: str = "video"
    packed: Packed | None = None  # where its media are, if not in the file ``video`` itself

    @property
    def media(self) -> Path | Packed:
        """What is decoded: the file, or the place of its packed copy. ``video`` then only names the source."""
        return self.packed or self.video


class ClipTable(Sequence[Clip]):
    """Clips that are built when they are asked for, of a data set too large to hold them all in every process.

    What is asked of all of them, columns answer.
    """

    @abstractmethod
    def clip(self, number: int) -> Clip:
        """One clip, by its number from 0 on."""

    @abstractmethod
    def part(self, numbers: Sequence[int] | np.ndarray) -> ClipTable:
        """Some of the clips, in this order."""

    @abstractmethod
    def splits(self) -> list[str | None]:
        """The split of each clip."""

    @abstractmethod
    def digests(self) -> np.ndarray:
        """`name_digest` of each clip, uint64 (N,)."""

    @abstractmethod
    def kinds(self) -> list[str]:
        """The kind of each clip."""

    @abstractmethod
    def captioned(self) -> int:
        """The number of clips with captions."""

    @property
    @abstractmethod
    def packing(self) -> Packing:
        """What all clips were packed for."""

    @abstractmethod
    def groups(self) -> np.ndarray:
        """The shard of each clip, int32 (N,)."""

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipTable: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipTable:
        if isinstance(index, slice):
            return self.part(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return self.clip(index % len(self))


@dataclass
class Clips:
    """What a data set holds, and what of it was skipped: records of {file, field, reason}."""

    clips: Sequence[Clip]
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def of_split(self, split: str) -> Sequence[Clip]:
        """The clips of one split, whose name may be in any case."""
        name = split.strip().lower()
        return _part(self.clips, [number for number, found in enumerate(_splits(self.clips)) if found == name])


def hold_out(clips: Sequence[Clip], share: float) -> tuple[Sequence[Clip], Sequence[Clip]]:
    """Splits clips into (training, evaluation).

    Where the data set names splits, train goes to training and val, valid, validation or test to evaluation. Otherwise
    ``share`` of the videos is held out by a hash of their names, so that a video stays on its side when others come.
    """
    splits = _splits(clips)
    if any(splits):
        sides = [[n for n, split in enumerate(splits) if split in side] for side in (TRAIN, HELD_OUT)]
    else:
        held = _digests(clips) < np.uint64(math.ceil(share * 2**64))
        sides = [np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()]
    return _part(clips, sides[0]), _part(clips, sides[1])


def name_digest(name: str) -> int:
    """64 bits of a hash of the name of a media file, which decide whether it is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def other_splits(clips: Sequence[Clip]) -> str | None:
    """In words, the clips whose split is neither that of training nor one that `hold_out` holds out; None if none."""
    others = Counter(split for split in _splits(clips) if split not in (*TRAIN, *HELD_OUT))
    if not others:
        return None
    names = ", ".join(f"{split} ({count})" for split, count in others.most_common(5))
    return f"{others.total()} clips are in splits that are not used: {names}; known are train, {', '.join(HELD_OUT)}"


def kinds_of(clips: Sequence[Clip]) -> list[str]:
    """The kind of each clip."""
    return clips.kinds() if isinstance(clips, ClipTable) else [clip.kind for clip in clips]


def count_captioned(clips: Sequence[Clip]) -> int:
    """The number of clips with captions."""
    return clips.captioned() if isinstance(clips, ClipTable) else sum(bool(clip.captions) for clip in clips)


def check_packing(clips: Sequence[Clip], spec: InputConfig, sound_only: bool = False) -> None:
    """Compares packed clips with what a model reads. Smaller pictures than its own are a warning, once.

    Raises:
        ManifestError: its windows are longer, or have more frames a second.
    """
    if isinstance(clips, ClipTable):
        found = {clips.packing} if set(clips.kinds()) != {"image"} else set()
        pictures = {clips.packing}
    else:
        found = {clip.packed.packing for clip in clips if clip.packed is not None and clip.kind != "image"}
        pictures = {clip.packed.packing for clip in clips if clip.packed is not None}
    for packing in found:
        if spec.seconds > packing.window + _NEAR:
            raise ManifestError(
                f"{packing.name}: packed for windows of up to {packing.window:g} s, the model reads {spec.seconds:g}: "
                f"pack with --window {spec.seconds:g}"
            )
        if spec.fps > packing.fps + _NEAR and not sound_only:
            raise ManifestError(
                f"{packing.name}: packed with {packing.fps:g} frames a second, the model reads {spec.fps:g}: pack with "
                f"--fps {spec.fps:g}"
            )
    if not sound_only:
        for packing in pictures:
            _warn_of_size(packing, spec.size)


@cache
def _warn_of_size(packing: Packing, size: int) -> None:
    if size > packing.size:
        logger.warning(
            "%s: packed with %d pixels on the shorter side, the model reads %d: pictures are enlarged",
            *(packing.name, packing.size, size),
        )


def _splits(clips: Sequence[Clip]) -> list[str | None]:
    return clips.splits() if isinstance(clips, ClipTable) else [clip.split for clip in clips]


def _digests(clips: Sequence[Clip]) -> np.ndarray:
    if isinstance(clips, ClipTable):
        return clips.digests()
    return np.array([name_digest(clip.video.name) for clip in clips], np.uint64)


def _part(clips: Sequence[Clip], numbers: list[int]) -> Sequence[Clip]:
    return clips.part(numbers) if isinstance(clips, ClipTable) else [clips[number] for number in numbers]
