"""What a scene is: a thing with a shape, a colour and a size that moves over a background; and which scenes a set has.

There are two sets. Of the default one, a third of the 288 combinations of shape, colour and motion is held out for
validation, so that each pair of attributes is seen in training but none of the held-out three together. The large one
has eight times as many clips, of larger things, which differ more in place, size and colour. Of its 576 combinations
with the size as well, a sixth is held out: each shape is seen with every colour and motion at once, in some size.

Units: position in half frame sides from the centre (-1 to 1), angle in radians, time in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "white")
MOTIONS = ("slide", "bounce", "spin", "orbit", "pulse", "zigzag")
SIZES = ("small", "large")
BACKGROUNDS = ("stripes", "checks", "noise", "gradient", "dots")
TAU = 2 * np.pi


Bounds = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How far scenes may differ in what their names leave open: bounds of what is drawn evenly between them."""

    radius: Mapping[str, float]  # by size: half the width of the thing, in half frame sides, times ``spread``
    spread: Bounds = (0.92, 1.08)
    light: Bounds = (0.88, 1.0)  # factor of the colour
    tint: float = 0.0  # largest change of red, green and blue, each by itself, of 255
    centre: Bounds = (-0.3, 0.3)  # across and down, in half frame sides
    reach: Bounds = (0.45, 0.57)  # of a motion, in half frame sides
    angle: Bounds = (-0.3, 0.3)  # in radians


DEFAULT_LOOK = Look({"small": 0.36, "large": 0.56})


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
    look: Look = DEFAULT_LOOK

    def columns(self) -> dict[str, str]:
        """The manifest columns of this video beside its path; the label is the motion."""
        values = {key: str(value) for key, value in asdict(self).items() if key not in ("name", "look")}
        return {"label": self.motion, **values}


@dataclass(frozen=True)
class SampleSet:
    """Which scenes a set has.

    Attributes:
        train, val: clips, unless told otherwise.
        combinations: of shape, colour and motion, and of the size where that is not left to chance.
        held_out: whether a combination, as numbers of its values, belongs to validation.
        fps: pictures a second; a keyframe comes every second.
        files: further settings of `vatt.sample.encode.write_mp4`.
        format: goes up whenever the same parameters would give other files.
        folder: where it is, unless told otherwise.
        goes_on: whether a build that was stopped goes on where it was; else nothing is left of it.
    """

    name: str
    train: int
    val: int
    combinations: tuple[tuple[str, ...], ...]
    held_out: Callable[..., bool]
    look: Look
    fps: int
    files: Mapping[str, Any]
    format: int
    folder: str
    goes_on: bool


def _every_third(shape: int, colour: int, motion: int) -> bool:
    """A Latin square, every third in each direction."""
    return (shape + colour + motion) % 3 == 0


def _every_sixth(shape: int, colour: int, motion: int, size: int) -> bool:
    """Never both sizes of one shape, colour and motion; for each colour, motion and size another shape."""
    return (shape + colour + motion + 3 * size) % 6 == 0


_LARGE_LOOK = Look(
    radius={"small": 0.48, "large": 0.72},
    spread=(0.85, 1.15),
    light=(0.75, 1.0),
    tint=20.0,
    centre=(-0.4, 0.4),
    reach=(0.42, 0.57),
    angle=(-0.5, 0.5),
)
SETS = {
    "default": SampleSet(
        name="default",
        train=768,
        val=96,
        combinations=(SHAPES, COLOURS, MOTIONS),
        held_out=_every_third,
        look=DEFAULT_LOOK,
        fps=15,
        files={},
        format=8,
        folder="runs/sample-clips",
        goes_on=False,
    ),
    "large": SampleSet(
        name="large",
        train=6144,
        val=384,
        combinations=(SHAPES, COLOURS, MOTIONS, SIZES),
        held_out=_every_sixth,
        look=_LARGE_LOOK,
        fps=10,  # as many as a model reads
        files={"crf": 26, "bit_rate": 64_000},
        format=1,
        folder="runs/sample-large",
        goes_on=True,
    ),
}


def scenes(train: int, val: int, seed: int, of: SampleSet = SETS["default"]) -> list[Scene]:
    """``train`` + ``val`` scenes. Combinations are dealt evenly: none comes twice before all have come once."""
    rng = np.random.default_rng([seed, 0])
    numbers = list(product(*(range(len(values)) for values in of.combinations)))
    decks = {
        "train": ([c for c in numbers if not of.held_out(*c)], train),
        "val": ([c for c in numbers if of.held_out(*c)], val),
    }
    dealt = []
    for split, (deck, count) in decks.items():
        rounds = [rng.permutation(len(deck)) for _ in range(-(-count // len(deck)))]
        for number, index in enumerate(np.ravel(rounds).astype(int)[:count]):
            shape, colour, motion, *sizes = (values[n] for values, n in zip(of.combinations, deck[index], strict=True))
            size, background = rng.choice(sizes or SIZES), rng.choice(BACKGROUNDS)
            scene_seed = int(rng.integers(2**31))
            name = f"{split}/{number:04d}"
            dealt.append(Scene(name, split, shape, colour, str(size), motion, str(background), scene_seed, of.look))
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
    rng, look = np.random.default_rng([scene.seed, 1]), scene.look
    period = _PERIODS[scene.motion] * rng.uniform(0.85, 1.15)
    centre = (rng.uniform(*look.centre), rng.uniform(*look.centre))
    return Motion(
        kind=scene.motion,
        period=period,
        phase=rng.uniform(0, period),
        centre=centre,
        reach=rng.uniform(*look.reach),
        angle=rng.uniform(*look.angle),
        turn=int(rng.choice([-1, 1])),
    )
