"""What a model does to a waveform before it makes tokens of it.

Shapes: B sounds, L samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vatt.clip import SILENCE, AudioLevel

LARGEST_GAIN = 1000.0  # 60 dB: what is quieter than an rms of 0.001 stays below 1


def at_level(audio_BL: Tensor, level: AudioLevel) -> Tensor:
    """Waveforms at the level that a model is trained for (`vatt.clip.InputConfig.audio_level`).

    A departure from the paper and the official code, which take sounds as they are: position rows are normed to a
    deviation of 1, and ordinary sounds (rms 0.1) make tokens of 0.02, so different sounds look alike to a new model.

    Args:
        audio_BL: floating point, in [-1, 1].
        level: "rms" scales each row to a root mean square of 1, by a gain of at most `LARGEST_GAIN`; a row that nowhere
            exceeds `vatt.clip.SILENCE` stays as it is. "as_is" does nothing.

    Returns:
        The type of ``audio_BL``; statistics are taken in float32 or wider. Under "rms" values leave [-1, 1].

    Raises:
        ValueError: not (B, L) in floating point, under "rms".
    """
    if level == "as_is":
        return audio_BL
    if audio_BL.ndim != 2 or not audio_BL.is_floating_point():
        raise ValueError(f"audio: expected floating point (B, L), got {tuple(audio_BL.shape)} {audio_BL.dtype}")
    wide = torch.promote_types(audio_BL.dtype, torch.float32)
    sound_BL = audio_BL.detach()  # the gain is no part of what is learned
    rms_B1 = sound_BL.to(wide).square().mean(1, keepdim=True).sqrt()
    gain_B1 = rms_B1.clamp(min=1 / LARGEST_GAIN).reciprocal()
    gain_B1 = torch.where(sound_BL.abs().amax(1, keepdim=True) > SILENCE, gain_B1, 1.0)
    return (audio_BL * gain_B1).to(audio_BL.dtype)
