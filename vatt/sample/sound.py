"""The sound of a scene: the shape gives the timbre, the motion gives pitch and rhythm, in step with the picture."""

from __future__ import annotations

import numpy as np

from vatt.sample.scene import TAU, Motion, Scene, motion_of

# Strength of each multiple of the pitch. Far apart, so that a timbre is known whatever its pitch.
_TIMBRES: dict[str, dict[float, float]] = {
    "circle": {1: 1.0},
    "square": {1: 1.0, 3: 0.6, 5: 0.45, 7: 0.35, 9: 0.25},
    "triangle": {2: 1.0, 4: 0.8, 6: 0.5},
    "star": {1: 0.3, 7: 0.8, 11: 0.7, 13: 0.6, 17: 0.4},
    "ring": {1: 0.9, 2.76: 0.8, 5.4: 0.6, 8.93: 0.4},
    "cross": {0.5: 0.7, 1: 0.8, 1.5: 0.7, 2: 0.6, 2.5: 0.5, 3: 0.5, 3.5: 0.4},
}
# The body of a thing also sounds at a frequency of its own, in Hz, whatever the note.
_RESONANCES = {"circle": 900, "cross": 1350, "square": 2000, "triangle": 3000, "ring": 4500, "star": 6700}


def waveform(scene: Scene, seconds: float, rate: int) -> np.ndarray:
    """Mono sound in [-1, 1], float32 (seconds * rate,)."""
    rng = np.random.default_rng([scene.seed, 3])
    time = np.arange(round(seconds * rate)) / rate
    pitch, loudness = _score(motion_of(scene), time, base=rng.uniform(240, 320))
    turns = np.cumsum(pitch) / rate
    partials = [strength * _sine(multiple * turns) for multiple, strength in _TIMBRES[scene.shape].items()]
    partials.append(_body(scene.shape, time, rng))
    sound = np.sum(partials, axis=0) * loudness.astype(np.float32)
    sound *= np.float32(rng.uniform(0.8, 0.95) / np.abs(sound).max())
    return sound + np.float32(0.004) * rng.standard_normal(len(time), dtype=np.float32)


def _body(shape: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rough tone at the resonance of the shape: a carrier whose strength wanders at random, 200 times a second."""
    knots = np.arange(0, time[-1] + 0.01, 0.005)
    roughness = np.interp(time, knots, rng.uniform(-1, 1, len(knots))).astype(np.float32)
    return np.float32(1.5) * roughness * _sine(_RESONANCES[shape] * time)


def _sine(turns: np.ndarray) -> np.ndarray:
    """The sine of an angle in turns, float32: fast, and exact enough once whole turns are gone."""
    return np.sin(np.float32(TAU) * (turns - np.floor(turns)).astype(np.float32))


def _score(motion: Motion, time: np.ndarray, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz and loudness (0 to 1) over time."""
    cycle, wave = motion.cycle(time), np.sin(TAU * motion.cycle(time))
    steady, even = np.full_like(time, base), np.full_like(time, 0.8)
    if motion.kind == "slide":  # glides an octave up and down with the position
        return base * 2.0 ** (0.5 * wave), even
    if motion.kind == "bounce":  # a hit on the floor that dies away
        return steady, np.exp(-9 * cycle)
    if motion.kind == "spin":  # a fast flutter
        return steady, 0.5 + 0.5 * np.sign(np.sin(8 * TAU * cycle))
    if motion.kind == "orbit":  # a siren around the note, twice an octave up
        return base * (2 + 0.06 * np.sin(6 * TAU * cycle)), 0.6 + 0.4 * wave
    if motion.kind == "pulse":  # swells and sinks, low
        return steady * 0.5, 0.5 + 0.5 * wave
    strokes = np.floor(4 * cycle)  # zigzag: a new note at each corner
    return base * np.array([1.0, 1.5, 2.0, 1.5])[strokes.astype(int) % 4], 0.3 + 0.6 * (1 - (4 * cycle) % 1)
