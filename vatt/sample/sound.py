"""The sound of a scene. Four things are told at once, each by another side of the sound, as in the world:

- colour: the note. Each colour hums a note of its own, which the voice of the thing is tuned to.
- size: the register. Something large rumbles below the note, something small hisses high above it.
- shape: the timbre of the voice, and a rough body that sounds at a frequency of its own.
- motion: the rhythm, and how the voice bends around its note, in step with the picture.

A model may hear every window at the same loudness (``model.input.audio_level``), so no attribute is told by how loud a
clip is, only by what is loud beside what, and when.
"""

from __future__ import annotations

import numpy as np

from vatt.sample.scene import TAU, Motion, Scene, motion_of

# Hz, a major third apart, so that a person hears which is which.
NOTES = {
    "red": 262.0,
    "orange": 330.0,
    "yellow": 416.0,
    "green": 524.0,
    "cyan": 660.0,
    "blue": 832.0,
    "pink": 1048.0,
    "white": 1320.0,
}
# Strength of each multiple of the note. Far apart, so that a timbre is known whatever its note.
_TIMBRES: dict[str, dict[float, float]] = {
    "circle": {1: 1.0},
    "square": {1: 1.0, 3: 0.6, 5: 0.45, 7: 0.35, 9: 0.25},
    "triangle": {2: 1.0, 4: 0.8, 6: 0.5},
    "star": {1: 0.3, 7: 0.8, 11: 0.7, 13: 0.6},
    "ring": {1: 0.9, 2.76: 0.8, 5.4: 0.6, 8.93: 0.4},
    "cross": {0.5: 0.7, 1: 0.8, 1.5: 0.7, 2: 0.6, 2.5: 0.5, 3: 0.5, 3.5: 0.4},
}
# The body of a thing also sounds at a frequency of its own, in Hz, whatever the note.
_RESONANCES = {"circle": 1800, "cross": 2400, "square": 3200, "triangle": 4200, "ring": 5500, "star": 7200}
_REGISTERS = {"large": 110, "small": 10_000}  # Hz
_HUM, _BODY, _REGISTER = 0.6, 0.9, 0.6  # rms of each, beside a voice of 1


def waveform(scene: Scene, seconds: float, rate: int) -> np.ndarray:
    """Mono sound in [-1, 1], float32 (seconds * rate,)."""
    rng = np.random.default_rng([scene.seed, 3])
    time = np.arange(round(seconds * rate)) / rate
    note = NOTES[scene.colour] * rng.uniform(0.97, 1.03)
    bend, loudness = _score(motion_of(scene), time)
    turns = np.cumsum(note * bend) / rate
    partials = [strength * _sine(multiple * turns) for multiple, strength in _TIMBRES[scene.shape].items()]
    voice = _even(np.sum(partials, axis=0)) + np.float32(_BODY) * _rough(_RESONANCES[scene.shape], time, rng)
    sound = voice * loudness.astype(np.float32)
    sound += np.float32(_HUM) * _even(_sine(note * time) + np.float32(0.5) * _sine(2 * note * time))
    sound += np.float32(_REGISTER * rng.uniform(0.8, 1.2)) * _rough(_REGISTERS[scene.size], time, rng)
    sound *= np.float32(rng.uniform(0.3, 0.95) / np.abs(sound).max())
    return sound + np.float32(0.004) * rng.standard_normal(len(time), dtype=np.float32)


def _rough(frequency: float, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rough tone of rms 1: a carrier whose strength wanders at random, 200 times a second."""
    knots = np.arange(0, time[-1] + 0.01, 0.005)
    roughness = np.interp(time, knots, rng.uniform(-1, 1, len(knots))).astype(np.float32)
    return _even(roughness * _sine(frequency * time))


def _even(sound: np.ndarray) -> np.ndarray:
    """The sound at rms 1."""
    return sound / np.float32(np.sqrt(np.mean(np.square(sound))))


def _sine(turns: np.ndarray) -> np.ndarray:
    """The sine of an angle in turns, float32: fast, and exact enough once whole turns are gone."""
    return np.sin(np.float32(TAU) * (turns - np.floor(turns)).astype(np.float32))


def _score(motion: Motion, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over time: the pitch as a multiple of the note, and the loudness (0 to 1)."""
    cycle, wave = motion.cycle(time), np.sin(TAU * motion.cycle(time))
    steady, even = np.ones_like(time), np.full_like(time, 0.8)
    if motion.kind == "slide":  # glides an octave up and down with the position
        return 2.0 ** (0.5 * wave), even
    if motion.kind == "bounce":  # a hit on the floor that dies away
        return steady, np.exp(-9 * cycle)
    if motion.kind == "spin":  # a fast flutter
        return steady, 0.5 + 0.5 * np.sign(np.sin(8 * TAU * cycle))
    if motion.kind == "orbit":  # a siren around the note, twice an octave up
        return 2 + 0.06 * np.sin(6 * TAU * cycle), 0.6 + 0.4 * wave
    if motion.kind == "pulse":  # swells and sinks, low
        return steady * 0.5, 0.5 + 0.5 * wave
    strokes = np.floor(4 * cycle)  # zigzag: a new note at each corner
    return np.array([1.0, 1.5, 2.0, 1.5])[strokes.astype(int) % 4], 0.3 + 0.6 * (1 - (4 * cycle) % 1)
