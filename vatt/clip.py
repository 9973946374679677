"""What a model reads of a clip: the length, size and rates of a window, and its sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vatt.config import Range, Section

AudioLevel = Literal["rms", "as_is"]
MOST_VALUES = 2**30  # of a window: one byte each of its picture, four of its sound
SILENCE = 1e-4  # -80 dBFS: a sound that nowhere exceeds it is none


@dataclass
class InputConfig(Section):
    """What a model reads of a clip. The default is the paper's: 3.2 s of video, sound and words (section 4.1).

    But for ``audio_level``: the paper takes sounds as they are, see `vatt.models.sound.at_level`.

    The clips themselves are files: `vatt.data.clips.Clip`.
    """

    frames: Annotated[int, Range(1, 4096)] = 32  # of a clip
    fps: Annotated[float, Range(0.01, 1000.0)] = 10.0  # frames per second
    size: Annotated[int, Range(1, 4096)] = 224  # height and width in pixels
    sample_rate: Annotated[int, Range(1, 768_000)] = 48000  # Hz, mono
    audio_level: AudioLevel = "rms"  # sounds are scaled to rms 1, silence is not; as_is: as in the paper
    words: Annotated[int, Range(1, 4096)] = 16  # of a sentence; longer ones are cut, shorter ones padded
    candidates: Annotated[int, Range(1, 1024)] = 5  # sentences of a clip, for MIL-NCE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"frames, fps, sample_rate: a window of {self.seconds:g} s has no sample of sound")
        for fields, size in (
            ("frames, size", 3 * self.frames * self.size**2),
            ("frames, fps, sample_rate", self.samples),
        ):
            if size > MOST_VALUES:
                raise ValueError(f"{fields}: a window has {size:,} values; at most {MOST_VALUES:,}")

    @property
    def seconds(self) -> float:
        """Length of a window: 3.2 s by default."""
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        """Waveform samples of a clip: 153,600 by default."""
        return round(self.seconds * self.sample_rate)
