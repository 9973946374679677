"""What a scene is: a thing with a shape, a colour and a size that moves over a background; and which scenes a set has.

A third of the 288 combinations of shape, colour and motion is held out for validation, so that each pair of attributes
is seen in training but none of the held-out three together.

Units: position in half frame sides from the centre (-1 to 1), angle in radians, time in seconds.
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
TAU = 2 * np.pi


@dataclass(frozen=True)
class Scene:
    """The attributes of one video. ``seed`` fixes all that the names leave open (phase, position, texture, wording)."""

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
        for number, index in enumerate(np.ravel(rounds).astype(int)[:count]):
            shape, colour, motion = deck[index]
            size, background = rng.choice(SIZES), rng.choice(BACKGROUNDS)
            scene_seed = int(rng.integers(2**31))
            name = f"{split}/{number:04d}"
            dealt.append(Scene(name, split, shape, colour, str(size), motion, str(background), scene_seed))
    return dealt


@dataclass(frozen=True)
class Trajectory:
    """The motion over time: arrays of the length of the times that were asked for."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Motion:
    """One motion with its free choices made: period and phase in seconds, centre and reach in half frame sides."""

    kind: str
    period: float
    phase: float
    centre: tuple[float, float]
    reach: float
    angle: float
    turn: int  # 1 or -1

    def cycle(self, time: np.ndarray) -> np.ndarray:
        """The share of the current period that has passed, 0 to 1."""
        return ((time + self.phase) / self.period) % 1.0

    def path(self, time: np.ndarray) -> Trajectory:
        """Where the thing is at each time."""
        cycle, wave = self.cycle(time), np.sin(TAU * self.cycle(time))
        x, y = np.full_like(time, self.centre[0]), np.full_like(time, self.centre[1])
        angle, scale = np.full_like(time, self.angle), np.ones_like(time)
        if self.kind == "slide":
            x = self.reach * wave
        elif self.kind == "bounce":  # a parabola between two hits of the floor
            y = 0.5 - 1.4 * self.reach * 4 * cycle * (1 - cycle)
        elif self.kind == "spin":
            angle = self.angle + self.turn * TAU * cycle
        elif self.kind == "orbit":
            x, y = self.reach * wave, self.turn * self.reach * np.cos(TAU * cycle)
        elif self.kind == "pulse":
            scale = 1 + 0.45 * wave
        elif self.kind == "zigzag":  # down the frame in straight strokes, one corner a quarter period
            x = self.reach * (4 * np.abs(((2 * cycle) % 1) - 0.5) - 1)
            y = self.turn * self.reach * (4 * np.abs(cycle - 0.5) - 1)
        return Trajectory(x, y, angle, scale)


_PERIODS = {"slide": 1.6, "bounce": 0.8, "spin": 1.2, "orbit": 1.6, "pulse": 0.8, "zigzag": 2.4}


def motion_of(scene: Scene) -> Motion:
    """The motion of a scene, its choices drawn from the seed of the scene."""
    rng = np.random.default_rng([scene.seed, 1])
    period = _PERIODS[scene.motion] * rng.uniform(0.85, 1.15)
    centre = (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3))
    return Motion(
        kind=scene.motion,
        period=period,
        phase=rng.uniform(0, period),
        centre=centre,
        reach=rng.uniform(0.45, 0.57),
        angle=rng.uniform(-0.3, 0.3),
        turn=int(rng.choice([-1, 1])),
    )
