"""Between which bounds a retrieval figure on the sample lies: chance, and a searcher that sees all attributes.

The oracle knows the attributes of each held-out clip. From a sentence it reads what the sentence tells; from a sound it
hears shape and motion. It ranks the clips by how much of that they match; among equals its order is random, and the
figures here are the expectation over that order.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vatt.sample.words import understand

_HEARD = ("shape", "motion")


@dataclass(frozen=True)
class Level:
    """Expected recall at 1, 5 and 10 (shares, 0 to 1) and median rank (1 is best) over the queries."""

    r1: float
    r5: float
    r10: float
    median_rank: float


def levels(sample: str | Path, split: str = "val") -> dict[str, Level]:
    """Chance and oracle for the clips of one split: keys chance, text_to_video, audio_to_video.

    Args:
        sample: the folder of the sample set, or its manifest.
        split: the queries and the gallery are all clips of this split.

    Raises:
        ValueError: the manifest names no clip of this split.
    """
    manifest = Path(sample) / "manifest.csv" if Path(sample).is_dir() else Path(sample)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    if not rows:
        raise ValueError(f"{manifest}: no clip of split {split!r}")
    queries = [understand(_first_caption(manifest.parent / row["video"])) for row in rows]
    heard = [{key: row[key] for key in _HEARD} for row in rows]
    return {
        "chance": _level(np.zeros((len(rows), len(rows)))),
        "text_to_video": _level(_matches(queries, rows)),
        "audio_to_video": _level(_matches(heard, rows)),
    }


def _first_caption(video: Path) -> str:
    text = video.with_suffix(".srt").read_text(encoding="utf-8")
    return re.split(r"\n\s*\n", text)[0].splitlines()[2]


def _matches(queries: list[dict[str, str]], rows: list[dict[str, str]]) -> np.ndarray:
    """How many of the told attributes each clip has: (queries, clips)."""
    return np.array([[sum(row[key] == value for key, value in query.items()) for row in rows] for query in queries])


def _level(score_QV: np.ndarray) -> Level:
    """Expected figures when the clip of query i is clip i and ties are broken at random."""
    own = np.diag(score_QV)[:, None]
    better, equal = (score_QV > own).sum(1), (score_QV == own).sum(1)
    recall = {k: float(np.clip((k - better) / equal, 0, 1).mean()) for k in (1, 5, 10)}
    return Level(recall[1], recall[5], recall[10], float(np.median(better + (equal + 1) / 2)))


def table(found: dict[str, Level]) -> str:
    """The levels as lines for a terminal."""
    lines = [f"{'':24}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'MedR':>7}"]
    names = {"chance": "chance", "text_to_video": "oracle text->video", "audio_to_video": "oracle audio->video"}
    for key, name in names.items():
        level = found[key]
        shares = "".join(f"{100 * share:6.1f}%" for share in (level.r1, level.r5, level.r10))
        lines.append(f"{name:24}{shares}{level.median_rank:7.1f}")
    return "\n".join(lines)
