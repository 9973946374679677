"""What the narrator says: five timed captions a video, in varied words, of which some tell only a part."""

from __future__ import annotations

import re

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
# The first caption of a video is the query of the evaluation: it tells shape, colour and motion.
FULL = (
    "a {size} {colour} {shape} {motion}",
    "a {colour} {shape} {motion} over {background}",
    "here the {colour} {shape} {motion}",
    "look at this {colour} {shape} it {motion}",
    "now a {colour} {shape} that {motion}",
    "we see a {size} {colour} {shape} and it {motion}",
    "there is a {colour} {shape} which {motion}",
    "watch how the {size} {colour} {shape} {motion}",
)
PARTIAL = (
    "the {shape} {motion} in front of {background}",
    "something {colour} {motion}",
    "what a nice {colour} {shape}",
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
