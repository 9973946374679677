"""What a model reads of a clip: the length, size and rates of a window, and its sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AudioLevel = Literal["rms", "as_is"]
SILENCE = 1e-4  # -80 dBFS: a sound that nowhere exceeds it is none


@dataclass
class InputConfig:
    """What a model reads of a clip. The default is the paper's: 3.2 s of video, sound and words (section 4.1).

    But for ``audio_level``: the paper takes sounds as they are, see `vatt.models.sound.at_level`.

    The clips themselves are files: `vatt.data.clips.Clip`.
    """

    frames: int = 32  # of a clip
    fps: float = 10.0  # frames per second
    size: int = 224  # height and width in pixels
    sample_rate: int = 48000  # Hz, mono
    audio_level: AudioLevel = "rms"  # sounds are scaled to rms 1, silence is not; as_is: as in the paper
    words: int = 16  # of a sentence; longer ones are cut, shorter ones padded
    candidates: int = 5  # sentences of a clip, for MIL-NCE

    @property
    def seconds(self) -> float:
        """Length of a window: 3.2 s by default."""
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        """Waveform samples of a clip: 153,600 by default."""
        return round(self.seconds * self.sample_rate)
