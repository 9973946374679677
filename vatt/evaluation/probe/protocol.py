"""Which clips train a probe and which test it: official splits, folds, or the plain split column."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vatt.data.clips import Clip, hold_out
from vatt.data.labels import Classes
from vatt.errors import UserError


class ProbeError(UserError, ValueError):
    """A probe that cannot be made. The message names the data set and the column, the class, or the option."""


@dataclass(frozen=True)
class Split:
    """Numbers of the clips on each side."""

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]

    def among(self, known: Collection[int]) -> Split:
        """The same split without the clips that are not ``known``, such as those that could not be read."""
        return Split(self.name, *(tuple(n for n in side if n in known) for side in (self.train, self.test)))


def splits_of(clips: Sequence[Clip], where: str) -> list[Split]:
    """The splits of a manifest, in order.

    Columns split1, split2, ... hold "train" or "test" (UCF101, HMDB51; anything else: not used in that split); column
    fold holds numbers, each of which is the test set once (ESC-50; empty: not used); else the column split counts, as
    for training.

    Raises:
        ProbeError: a side of a split is empty; the message names it.
    """
    clips = list(clips)  # each clip has one identity
    columns = {key for clip in clips for key in clip.extra}
    found: list[Split] = []
    numbered = sorted((c for c in columns if re.fullmatch(r"split\d+", c)), key=lambda name: int(name[5:]))
    for column in numbered:
        values = [clip.extra.get(column) for clip in clips]
        found.append(Split(column, *(_equal(values, side) for side in ("train", "test"))))
    if not found and "fold" in columns:
        found = _folds([clip.extra.get("fold") or None for clip in clips])
    if not found:
        training, held_out = (set(map(id, part)) for part in hold_out(clips, 0.0))
        train = tuple(n for n, clip in enumerate(clips) if id(clip) in training)
        test = tuple(n for n, clip in enumerate(clips) if id(clip) in held_out)
        found.append(Split("split", train, test))
    for split in found:
        for side, numbers in (("train", split.train), ("test", split.test)):
            if not numbers:
                wanted = "the columns split1.., fold, or split (train, and val or test)"
                raise ProbeError(f"{where}: {split.name} has no clip to {side} on; a probe reads {wanted}")
    return found


def check_classes(classes: Classes, clips: Sequence[Clip], split: Split, where: str) -> list[str]:
    """Checks the labels of a split before any clip is decoded; returns the classes without a test clip.

    Raises:
        ProbeError: a class has no training clip; the message names it. LabelError: a label cannot be used.
    """
    named = f"{where}, {split.name}"
    if without := classes.check((clips[n] for n in split.train), named):
        raise ProbeError(f"{named}, column {classes.column}: no training clip of the class {', '.join(without[:5])}")
    return classes.check((clips[n] for n in split.test), named)


def _folds(values: Sequence[str | None]) -> list[Split]:
    """A split for each fold, which it is tested on; clips without one are in none."""
    folds = sorted({fold for fold in values if fold is not None}, key=lambda fold: (len(fold), fold))
    every = tuple(number for number, fold in enumerate(values) if fold is not None)
    return [Split(f"fold {fold}", tuple(n for n in every if values[n] != fold), _equal(values, fold)) for fold in folds]


def _equal(values: Sequence[str | None], wanted: str) -> tuple[int, ...]:
    return tuple(number for number, value in enumerate(values) if value == wanted)
