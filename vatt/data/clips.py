"""Clips: the items of a data set, however it is written down. Which of them are held out, `vatt.data.splits` says."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from vatt.clip import InputConfig
from vatt.data.captions import Caption
from vatt.data.decode import Packed, Packing
from vatt.errors import UserError, in_short

_NEAR = 1e-6  # of seconds and rates that were written as decimals


logger = logging.getLogger(__name__)


class ManifestError(UserError, ValueError):
    """A data set that cannot be used. The message names the file, the line and the column."""

    def __init__(self, message: str) -> None:
        super().__init__(in_short(message))


@dataclass(frozen=True)
class Clip:
    """One item of a data set: a video, or a range of it (seconds), and the narration of the whole video.

    ``video`` is the media file, whatever its ``kind``: a video, a sound file ("audio") or a picture ("image"). ``name``
    is its path in the data set, which stays when the data set moves; "" if the clip is of none. ``row`` is its place in
    the manifest ("line 7"), for messages.
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
    name: str = field(default="", compare=False)
    row: str = field(default="", compare=False)

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
        """`vatt.data.splits.name_digest` of each clip, uint64 (N,)."""

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

    def is_there(self) -> bool:
        """Whether the data set can still be found, as far as one can tell."""
        return True

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
    """What a data set holds, what of it was skipped: records of {file, field, reason}; and lines that a person should
    see, such as how many files were passed over."""

    clips: Sequence[Clip]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
