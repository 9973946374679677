"""Clips: the items of a data set, however it is written down; and which of them are held out for evaluation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.captions import Caption
from vatt.data.decode import Packed
from vatt.errors import UserError

TRAIN = ("train", "", None)  # splits, in lower case
HELD_OUT = ("val", "valid", "validation", "test")


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


@dataclass
class Clips:
    """What a data set holds, and what of it was skipped: records of {file, field, reason}."""

    clips: list[Clip]
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def of_split(self, split: str) -> list[Clip]:
        """The clips of one split, whose name may be in any case."""
        return [clip for clip in self.clips if clip.split == split.strip().lower()]


def hold_out(clips: list[Clip], share: float) -> tuple[list[Clip], list[Clip]]:
    """Splits clips into (training, evaluation).

    Where the data set names splits, train goes to training and val, valid, validation or test to evaluation. Otherwise
    ``share`` of the videos is held out by a hash of their names, so that a video stays on its side when others come.
    """
    if any(clip.split for clip in clips):
        return [c for c in clips if c.split in TRAIN], [c for c in clips if c.split in HELD_OUT]
    training: list[Clip] = []
    held: list[Clip] = []
    for clip in clips:
        digest = hashlib.sha256(clip.video.name.encode()).digest()
        (held if int.from_bytes(digest[:8], "big") < share * 2**64 else training).append(clip)
    return training, held


def other_splits(clips: Iterable[Clip]) -> str | None:
    """In words, the clips whose split is neither that of training nor one that `hold_out` holds out; None if none."""
    others = Counter(clip.split for clip in clips if clip.split not in (*TRAIN, *HELD_OUT))
    if not others:
        return None
    names = ", ".join(f"{split} ({count})" for split, count in others.most_common(5))
    return f"{others.total()} clips are in splits that are not used: {names}; known are train, {', '.join(HELD_OUT)}"
