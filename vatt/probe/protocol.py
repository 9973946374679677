"""Which clips train a probe and which test it: official splits, folds, or the plain split column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vatt.data.manifest import Clip, hold_out


class ProbeError(ValueError):
    """A probe that cannot be made. The message names the data set and the column, or the class."""


@dataclass(frozen=True)
class Split:
    """Numbers of the clips on each side."""

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]


def splits_of(clips: Sequence[Clip], where: str) -> list[Split]:
    """The splits of a manifest, in order.

    Columns split1, split2, ... hold "train" or "test" (UCF101, HMDB51; anything else: not used in that split); column
    fold holds numbers, each of which is the test set once (ESC-50); else the column split counts, as for training.

    Raises:
        ProbeError: a side of a split is empty; the message names it.
    """
    columns = {key for clip in clips for key in clip.extra}
    found: list[Split] = []
    numbered = sorted((c for c in columns if re.fullmatch(r"split\d+", c)), key=lambda name: int(name[5:]))
    for column in numbered:
        found.append(Split(column, *(_where(clips, column, side) for side in ("train", "test"))))
    if not found and "fold" in columns:
        folds = sorted({clip.extra["fold"] for clip in clips if clip.extra.get("fold")}, key=lambda f: (len(f), f))
        every = tuple(range(len(clips)))
        for fold in folds:
            own = _where(clips, "fold", fold)
            found.append(Split(f"fold {fold}", tuple(n for n in every if n not in set(own)), own))
    if not found:
        training, held_out = (set(map(id, part)) for part in hold_out(list(clips), 0.0))
        train = tuple(n for n, clip in enumerate(clips) if id(clip) in training)
        test = tuple(n for n, clip in enumerate(clips) if id(clip) in held_out)
        found.append(Split("split", train, test))
    for split in found:
        for side, numbers in (("train", split.train), ("test", split.test)):
            if not numbers:
                wanted = "the columns split1.., fold, or split (train, and val or test)"
                raise ProbeError(f"{where}: {split.name} has no clip to {side} on; a probe reads {wanted}")
    return found


def _where(clips: Sequence[Clip], column: str, value: str) -> tuple[int, ...]:
    return tuple(number for number, clip in enumerate(clips) if clip.extra.get(column) == value)
