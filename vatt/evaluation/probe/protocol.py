"""Which clips train a probe and which test it: official splits, folds, or the plain split column."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vatt.data import splits as columns
from vatt.data.clips import Clip
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


def splits_of(
    clips: Sequence[Clip], where: str, held_out: str | None = None, share: float = columns.SHARE
) -> list[Split]:
    """The splits of a manifest, in order.

    Columns split1, split2, ... hold "train" or "test" (UCF101, HMDB51; anything else: not used in that split); column
    fold holds numbers, each of which is the test set once (ESC-50; empty: not used); else the column split counts, as
    for training.

    Args:
        held_out: the split to test on; None: test of official splits, and else val, or test where there is no val.
        share: of the videos, held out where no split is named.

    Raises:
        ProbeError: a side of a split is empty; the message names it. A fold is tested on by itself, not by its name.
    """
    tested = columns.split_name(held_out) if held_out is not None else None
    named = {key for clip in clips for key in clip.extra}
    found: list[Split] = []
    numbered = sorted((c for c in named if re.fullmatch(r"split\d+", c)), key=lambda name: int(name[5:]))
    for column in numbered:
        values = [columns.split_name(value) if (value := clip.extra.get(column)) else None for clip in clips]
        found.append(Split(column, *(_equal(values, side) for side in (columns.TRAIN, tested or columns.TEST))))
    if not found and "fold" in named:
        if tested is not None:
            raise ProbeError(f"--split: each fold of {where} is tested on in turn; leave it out")
        found = _folds([clip.extra.get("fold") or None for clip in clips])
    if not found:
        plain = columns.splits_of(clips, share)
        name = (tested or columns.VAL) if not plain.named else plain.held_out() if tested is None else tested
        found.append(Split(name, *(tuple(plain.numbers(side).tolist()) for side in (columns.TRAIN, name))))
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
