"""Classes by name: which number a label has, and what is wrong with those that have none.

A class is known by its name alone. Its number is its index in the list of classes, which a trained model keeps in its
configuration; so a label file in another order changes nothing.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.data.clips import Clip
from vatt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_DECIMAL = re.compile(r"[+-]?\d+\.0+")  # a whole number, as pandas writes one into a column in which others are missing
LIST_AS_TEXT = re.compile(r"\s*[\[{]\s*['\"]")  # as pandas writes a list into a table
SEPARATOR = "|"  # between the labels of a row that has several


class LabelError(UserError, ValueError):
    """A label that cannot be used. The message names the data set or the file, the column and the label."""


@dataclass(frozen=True)
class Classes:
    """The classes of a task, in the order of the logits.

    Attributes:
        names: each once.
        multi: whether a clip may have any number of them.
        column: of the manifest, that holds them.
    """

    names: tuple[str, ...]
    multi: bool = False
    column: str = "label"

    def numbers(self, clip: Clip) -> list[int]:
        """The numbers of the labels of a clip, ascending.

        Raises:
            LabelError: no label (single), several labels (single), or one that is no class.
        """
        found = labels_of(clip, self.column)
        if not self.multi and len(found) != 1:
            what = (
                "has no label" if not found else f"has {len(found)} labels, {SEPARATOR.join(found)}; the task takes one"
            )
            raise LabelError(f"{clip.video}, column {self.column}: {what}")
        indices = self._indices
        unknown = [label for label in found if label not in indices]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.names, n=1)
            if _DECIMAL.fullmatch(unknown[0]) and (whole := unknown[0].partition(".")[0]) in indices:
                near = [whole]
            hint = f"did you mean {near[0]!r}?" if near else f"the {len(self.names)} classes begin {self.names[:3]}"
            raise LabelError(f"{clip.video}, column {self.column}: {unknown[0]!r} is no class; {hint}")
        return sorted({indices[label] for label in found})

    def target(self, clip: Clip) -> Tensor:
        """float32 (K,): 1 for each class of the clip. Raises LabelError, see `numbers`."""
        import torch  # here, as annotations are read without it

        out = torch.zeros(len(self.names))
        out[self.numbers(clip)] = 1.0
        return out

    def check(self, clips: Iterable[Clip], where: str) -> list[str]:
        """Checks the labels of all clips before any is decoded; returns the classes that none of them has.

        Raises:
            LabelError: the first label that cannot be used; the message begins with ``where``.
        """
        counts: Counter[int] = Counter()
        for clip in clips:
            try:
                counts.update(self.numbers(clip))
            except LabelError as error:
                raise LabelError(f"{where}: {error}") from None
        return [name for number, name in enumerate(self.names) if not counts[number]]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


def labels_of(clip: Clip, column: str = "label") -> list[str]:
    """The labels of a clip in a column of its manifest, those of several between bars.

    Raises:
        LabelError: a list, or the text of one, in place of a label.
    """
    value = {"label": clip.label, "caption": None, "split": clip.split}.get(column, clip.extra.get(column))
    if value and LIST_AS_TEXT.match(value):
        raise LabelError(f"{clip.video}, column {column}: {value[:60]!r} is a list; several labels are written a|b")
    return [part.strip() for part in (value or "").split(SEPARATOR) if part.strip()]


def find_classes(clips: Sequence[Clip], where: str, column: str = "label", multi: bool = False) -> Classes:
    """The classes that the clips name: in the order of their numbers if all are whole numbers, else of their names.

    Raises:
        LabelError: there is no such column, fewer than two classes, or numbers of classes with a decimal point.
    """
    names = {label for clip in clips for label in labels_of(clip, column)}
    if not names:
        filled = {name for clip in clips[:1000] for name, value in clip.extra.items() if value}
        others = sorted(filled | {"label" for clip in clips if clip.label})
        there = f": {', '.join(others)}" if others else ""
        raise LabelError(
            f"{where}: no clip has a label in the column {column}; take a manifest (.csv, .jsonl) with labels, and "
            f"name their column by --label{there}"
        )
    if len(names) < 2:
        known = sorted({key for clip in clips[:1000] for key in clip.extra} | {"label"})
        raise LabelError(
            f"{where}, column {column}: {len(names)} classes among {len(clips)} clips, at least 2 are needed; "
            f"columns: {', '.join(known)}"
        )
    decimals = sorted(name for name in names if _DECIMAL.fullmatch(name))
    if len(decimals) == len(names) or any(name.partition(".")[0] in names for name in decimals):
        raise LabelError(
            f"{where}, column {column}: {decimals[0]!r} is a whole number with a decimal point, as pandas writes where "
            f"others are missing: write {decimals[0].partition('.')[0]!r} (column.astype('Int64')), or a name"
        )
    numeric = all(name.isdecimal() for name in names)
    return Classes(tuple(sorted(names, key=(lambda name: (int(name), name)) if numeric else None)), multi, column)


def read_classes(path: str | Path, column: str = "label", multi: bool = False) -> Classes:
    """The classes in a text file, one name per line, in the order of the logits.

    Raises:
        LabelError: it cannot be read, names a class twice, or names fewer than two; the message names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot read the classes: {error}") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        if name in seen:
            raise LabelError(f"{path}, line {number}: the class {name!r} is in line {seen[name]} already")
        seen[name] = number
    if len(seen) < 2:
        raise LabelError(f"{path}: names {len(seen)} classes, at least 2 are needed")
    return Classes(tuple(seen), multi, column)
