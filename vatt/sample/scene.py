"""What a scene is: one thing with a shape, a colour, a size and a motion over a background. And who gets which.

A third of the 288 combinations of shape, colour and motion is held out for validation, so that each pair of attributes
is seen in training but none of the held-out three together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "white")
MOTIONS = ("slide", "bounce", "spin", "orbit", "pulse", "zigzag")
SIZES = ("small", "large")
BACKGROUNDS = ("stripes", "checks", "noise", "gradient", "dots")


@dataclass(frozen=True)
class Scene:
    """The attributes of one video. ``seed`` fixes all that the names leave open (phase, place, texture, wording)."""

    name: str
    split: str
    shape: str
    colour: str
    size: str
    motion: str
    background: str
    seed: int

    def columns(self) -> dict[str, str]:
        """The manifest columns of this video beside its path; the label is the motion."""
        values = {key: str(value) for key, value in asdict(self).items() if key != "name"}
        return {"label": self.motion, **values}


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether this combination belongs to validation: a Latin square, every third in each direction."""
    return (SHAPES.index(shape) + COLOURS.index(colour) + MOTIONS.index(motion)) % 3 == 0


def scenes(train: int, val: int, seed: int) -> list[Scene]:
    """``train`` + ``val`` scenes. Combinations are dealt evenly: none comes twice before all have come once."""
    rng = np.random.default_rng([seed, 0])
    combinations = list(product(SHAPES, COLOURS, MOTIONS))
    decks = {
        "train": ([c for c in combinations if not held_out(*c)], train),
        "val": ([c for c in combinations if held_out(*c)], val),
    }
    dealt = []
    for split, (deck, count) in decks.items():
        rounds = [rng.permutation(len(deck)) for _ in range(-(-count // len(deck)))]
        for number, place in enumerate(np.ravel(rounds).astype(int)[:count]):
            shape, colour, motion = deck[place]
            size, background = rng.choice(SIZES), rng.choice(BACKGROUNDS)
            scene_seed = int(rng.integers(2**31))
            name = f"{split}/{number:04d}"
            dealt.append(Scene(name, split, shape, colour, str(size), motion, str(background), scene_seed))
    return dealt
