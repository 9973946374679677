"""What the narrator says, and how far words lead: captions of a scene, and an oracle that searches by them.

A video has five timed captions in varied words, of which some tell only a part. A retrieval figure on the sample lies
between chance and the oracle, which knows the attributes of each held-out clip. From a sentence it reads what the
sentence tells; from a sound it hears shape, colour, size and motion. It ranks the clips by how much of that they match;
among equals its order is random, and the figures here are the expectation over that order.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vatt.sample.scene import Scene

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "circle": ("circle", "disc", "ball"),
        "square": ("square", "box", "block"),
        "triangle": ("triangle", "wedge", "pyramid"),
        "star": ("star", "starlet"),
        "ring": ("ring", "hoop", "doughnut"),
        "cross": ("cross", "plus"),
    },
    "colour": {
        "red": ("red", "crimson"),
        "orange": ("orange", "amber"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue", "navy"),
        "pink": ("pink", "magenta"),
        "white": ("white", "snowy"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "motion": {
        "slide": ("slides from side to side", "glides left and right", "sways across the picture"),
        "bounce": ("bounces on the floor", "hops up and down", "jumps again and again"),
        "spin": ("spins on the spot", "rotates in place", "twirls about itself"),
        "orbit": ("goes round in circles", "orbits the middle", "circles around the centre"),
        "pulse": ("swells and shrinks", "grows and fades like a heartbeat", "pulses steadily"),
        "zigzag": ("zigzags through the frame", "darts from corner to corner", "tacks along sharp lines"),
    },
    "background": {
        "stripes": ("stripes", "bars"),
        "checks": ("checks", "tiles"),
        "noise": ("grain", "fog"),
        "gradient": ("shading", "dusk"),
        "dots": ("dots", "spots"),
    },
}
_HEARD = ("shape", "colour", "size", "motion")  # what a sound tells
# The first caption of a video is the query of the evaluation: it tells shape, colour and motion.
FULL = (
    "a {size} {colour} {shape} {motion}",
    "a {size} {colour} {shape} {motion} over {background}",
    "here the {size} {colour} {shape} {motion}",
    "look at this {colour} {shape} it {motion}",
    "now a {size} {colour} {shape} that {motion}",
    "we see a {size} {colour} {shape} and it {motion}",
    "there is a {size} {colour} {shape} which {motion}",
    "watch how the {size} {colour} {shape} {motion}",
)
PARTIAL = (
    "the {shape} {motion} in front of {background}",
    "something {size} and {colour} {motion}",
    "what a nice {size} {shape}",
    "it {motion} and you can hear it",
    "the {size} {colour} one {motion}",
    "notice the {background} behind the {shape}",
)


def captions(scene: Scene, seconds: float) -> list[tuple[float, float, str]]:
    """Five (start, end, text), one after the other: three that tell the whole, two that tell a part."""
    rng = np.random.default_rng([scene.seed, 4])
    kinds = [FULL, *(((FULL, FULL, PARTIAL, PARTIAL)[i]) for i in rng.permutation(4))]
    cuts = np.linspace(0, seconds, len(kinds) + 1)
    return [
        (float(start), float(end), _say(str(rng.choice(kind)), scene, rng))
        for kind, start, end in zip(kinds, cuts[:-1], cuts[1:], strict=True)
    ]


def _say(template: str, scene: Scene, rng: np.random.Generator) -> str:
    chosen = {attribute: str(rng.choice(words[getattr(scene, attribute)])) for attribute, words in WORDS.items()}
    return re.sub(r"\ba (?=[aeiou])", "an ", template.format(**chosen))


def srt(timed: list[tuple[float, float, str]]) -> str:
    """The captions as the text of an .srt file."""
    cues = [f"{n}\n{_stamp(start)} --> {_stamp(end)}\n{text}\n" for n, (start, end, text) in enumerate(timed, start=1)]
    return "\n".join(cues)


def _stamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def understand(sentence: str) -> dict[str, str]:
    """The attributes that a caption tells, read with the narrator's own words."""
    said = f" {sentence.lower()} "
    return {
        attribute: value
        for attribute, values in WORDS.items()
        for value, phrases in values.items()
        if any(f" {phrase} " in said for phrase in phrases)
    }


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
