"""Which clips of a data set train and which are held out: the split that each is in, as its data set names it.

"val" is also written valid or validation; an empty split is train. Where a data set names no split at all, val is a
share of its videos, chosen by a hash of their names. Clips of val and of test never come together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vatt.data.clips import Clip, ClipTable, ManifestError
from vatt.data.config import DataConfig
from vatt.data.skipped import Record

TRAIN, VAL, TEST, ALL = "train", "val", "test", "all"
KNOWN = (TRAIN, VAL, TEST)
SHARE = DataConfig.eval_share
_OTHER_NAMES = {"": TRAIN, "valid": VAL, "validation": VAL}
_SHOWN = 5  # splits with other names


def split_name(text: str | None) -> str:
    """A split as everything here calls it, however a data set or a user writes it."""
    name = (text or "").strip().lower()
    return _OTHER_NAMES.get(name, name)


@dataclass(frozen=True)
class Splits:
    """The clips of a data set by split. Make one with `splits_of`.

    Attributes:
        named: whether the data set names splits.
    """

    clips: Sequence[Clip]
    names: tuple[str, ...]
    code_N: np.ndarray  # of each clip: the place of its split among the names
    named: bool

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of clips of each split: of train, val and test, and of those with other names."""
        found = dict(zip(self.names, np.bincount(self.code_N, minlength=len(self.names)).tolist(), strict=True))
        return {name: found.get(name, 0) for name in KNOWN} | {n: c for n, c in sorted(found.items()) if c}

    def of(self, name: str) -> Sequence[Clip]:
        """The clips of a split, in their order; of "all", all."""
        whole = split_name(name) == ALL and ALL not in self.names
        return self.clips if whole else _part(self.clips, self.numbers(name))

    def numbers(self, name: str) -> np.ndarray:
        """The numbers of the clips of a split, int64; of "all", all."""
        wanted = split_name(name)
        if wanted == ALL and ALL not in self.names:
            return np.arange(len(self.clips))
        code = self.names.index(wanted) if wanted in self.names else -1
        return np.flatnonzero(self.code_N == code)

    def held_out(self, wanted: str = VAL) -> str:
        """The split to evaluate on: the one that is wanted, or test where val is wanted and only test is there."""
        name = split_name(wanted)
        return TEST if name == VAL and not self.counts[VAL] and self.counts[TEST] else name

    def __str__(self) -> str:
        """In words: "train 384, val 96, test 0; 3 in other splits: extra 2, holdout 1"."""
        if not self.named:
            return f"train {self.counts[TRAIN]}, val {self.counts[VAL]} (no split is named; by a hash of their names)"
        known = ", ".join(f"{name} {self.counts[name]}" for name in KNOWN)
        others = sorted(((n, c) for n, c in self.counts.items() if n not in KNOWN), key=lambda pair: -pair[1])
        if not others:
            return known
        shown = ", ".join(f"{name} {count}" for name, count in others[:_SHOWN])
        more = ", ..." if len(others) > _SHOWN else ""
        return f"{known}; {sum(count for _, count in others)} in other splits: {shown}{more}"


def splits_of(clips: Sequence[Clip], share: float = SHARE) -> Splits:
    """The splits of a data set. Where it names none, ``share`` of its videos is val and the rest train, by a hash of
    the name of each video in the data set: all clips of a video are on one side, and stay there when others come or
    the data set moves."""
    written = clips.splits() if isinstance(clips, ClipTable) else [clip.split for clip in clips]
    if not any(written):
        held_N = _digests(clips) < np.uint64(math.ceil(share * 2**64))
        return Splits(clips, (TRAIN, VAL), held_N.astype(np.int8), named=False)
    names: dict[str, int] = {}
    of_text = {text: names.setdefault(split_name(text), len(names)) for text in dict.fromkeys(written)}
    code_N = np.fromiter((of_text[text] for text in written), np.int32, len(written))
    return Splits(clips, tuple(names), code_N, named=True)


def hold_out(clips: Sequence[Clip], share: float = SHARE, split: str = VAL) -> tuple[Sequence[Clip], Sequence[Clip]]:
    """(training, evaluation): the clips of train, and those of ``split``; of test where val is wanted and only test is
    there. Where the data set names no split, ``share`` of its videos is held out, see `splits_of`."""
    found = splits_of(clips, share)
    return found.of(TRAIN), found.of(found.held_out(split) if found.named else VAL)


def choose_split(clips: Sequence[Clip], split: str | None, where: str, share: float = SHARE) -> Sequence[Clip]:
    """The clips of a split that a command was asked for, all of them for None.

    Raises:
        ManifestError: there is none; the message names ``where``, and the splits that are there.
    """
    if split is None:
        return clips
    found = splits_of(clips, share)
    if chosen := found.of(split):
        return chosen
    raise ManifestError(nothing_in(found, split, where))


def records_of(records: Iterable[Record], split: str | None) -> list[Record]:
    """Of what a data set names and does not hold, what may be of a split: the rows of other splits are left out."""
    wanted = ALL if split is None else split_name(split)
    return [
        {name: value for name, value in record.items() if name != "split"}
        for record in records
        if wanted == ALL or "split" not in record or split_name(record["split"]) == wanted
    ]


def nothing_in(found: Splits, split: str, where: str) -> str:
    """In words: a split without clips, and those that are there."""
    return f"{where}, column split: no clip of {split_name(split)!r}; there are {found}"


def other_splits(clips: Sequence[Clip]) -> str | None:
    """In words, the clips whose split is none of train, val and test; None if there are none."""
    found = splits_of(clips)
    others = {name: count for name, count in found.counts.items() if name not in KNOWN}
    if not others:
        return None
    ordered = sorted(others.items(), key=lambda pair: -pair[1])[:_SHOWN]
    names = ", ".join(f"{name} ({count})" for name, count in ordered)
    known = f"{TRAIN}, {VAL} (valid, validation), {TEST}"
    return f"{sum(others.values())} clips are in splits that are not used: {names}; known are {known}"


def name_digest(name: str) -> int:
    """64 bits of a hash of the name of a media file in its data set, which decide whether it is held out."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def _digests(clips: Sequence[Clip]) -> np.ndarray:
    if isinstance(clips, ClipTable):
        return clips.digests()
    return np.array([name_digest(clip.name or clip.video.as_posix()) for clip in clips], np.uint64)


def _part(clips: Sequence[Clip], numbers_N: np.ndarray) -> Sequence[Clip]:
    return clips.part(numbers_N) if isinstance(clips, ClipTable) else [clips[number] for number in numbers_N.tolist()]
