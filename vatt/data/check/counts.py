"""How many clips each class has in each split."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from vatt.data.clips import Clip
from vatt.data.labels import labels_of

_SPLIT = re.compile(r"split\d*|fold")  # split1 to split3 of UCF101 and HMDB51, fold of ESC-50


@dataclass
class Counts:
    """Clips by split and by class.

    Attributes:
        classes: all, sorted.
        clips: (column, split) -> class -> number. The column is split, split1, ... or fold, or "" where there is none.
        totals: (column, split) -> number of clips, with a label or without.
    """

    classes: list[str] = field(default_factory=list)
    clips: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)

    def warnings(self) -> list[str]:
        """The classes that a split does not have, and splits without any label beside others with labels."""
        if not self.classes:
            return []
        found = []
        for (column, split), total in sorted(self.totals.items()):
            if not column and len(self.totals) > 1:  # used in no split
                continue
            name = f"{column} {split}".strip() or "the data set"
            having = self.clips.get((column, split))
            if not having:
                found.append(f"{name}: none of {total} clips has a label")
                continue
            if missing := [label for label in self.classes if label not in having]:
                more = ", ..." if len(missing) > 5 else ""
                found.append(f"{name}: classes without a clip ({len(missing)}): {', '.join(missing[:5])}{more}")
        return found

    def lines(self, most: int) -> list[str]:
        """For people: clips and classes of each split, and a line for each class if there are at most ``most``."""
        found = []
        for (column, split), total in sorted(self.totals.items()):
            having = self.clips.get((column, split), Counter())
            name = f"{column} {split}".strip() or "no split"
            spread = f", {min(having.values())} to {max(having.values())} clips each" if having else ""
            found.append(f"{name}: {total} clips, {len(having)} classes{spread}")
        if len(self.classes) <= most:
            width = max((len(label) for label in self.classes), default=0)
            for label in self.classes:
                each = (
                    f"{' '.join(split).strip() or 'clips'} {self._number(split, label)}" for split in self._splits()
                )
                found.append(f"  {label:{width}}  {', '.join(each)}")
        return found

    def table(self) -> list[str]:
        """Lines of a CSV file: column, split, class, clips; a class that a split lacks has 0."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("column", "split", "class", "clips"))
        for split in self._splits():
            writer.writerows((*split, label, self._number(split, label)) for label in self.classes)
        return text.getvalue().splitlines()

    def _splits(self) -> list[tuple[str, str]]:
        return sorted(self.totals)

    def _number(self, split: tuple[str, str], label: str) -> int:
        return self.clips[split][label] if split in self.clips else 0


def columns_of(clip: Clip) -> list[tuple[str, str]]:
    """The (column, split) that a clip belongs to; [("", "")] if it names none."""
    named = [("split", clip.split)] if clip.split else []
    named += [(key, value.strip()) for key, value in clip.extra.items() if _SPLIT.fullmatch(key) and value.strip()]
    return named or [("", "")]


def count(clips: Sequence[Clip], column: str = "label") -> Counts:
    """Counts of the classes in a column; a clip with several labels counts for each."""
    found = Counts()
    for clip in clips:
        labels = labels_of(clip, column)
        for split in columns_of(clip):
            found.totals[split] += 1
            if labels:
                found.clips[split].update(labels)
    found.classes = sorted({label for counts in found.clips.values() for label in counts})
    return found
