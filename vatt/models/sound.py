"""What a model does to a waveform before it makes tokens of it: its level, and for a spectrogram model its log-mel.

Shapes: B sounds, L samples, T Fourier transforms, M mel bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vatt.clip import SILENCE, AudioLevel, InputConfig
from vatt.kernels.runtime import without_autocast
from vatt.models.config import ResNetConfig, SpectrogramConfig
from vatt.models.spectrogram import normalise, spectrogram, standardise

LogMelConfig = SpectrogramConfig | ResNetConfig
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


def log_mel(audio_BL: Tensor, spec: InputConfig, section: LogMelConfig) -> Tensor:
    """The log-mel spectrogram that a spectrogram model reads, of waveforms at their level, (B, T, M).

    "as_is" brings each item to [0, 1], as the official loaders do (data/loading/loader.py); different sounds then make
    tokens that differ by 0.02, beside positions that differ by 1. "rms" brings it to a mean of 0 and a deviation of 1.

    Returns:
        The type of ``audio_BL``; computed in float32 or wider, also under autocast.
    """
    length, step = _sizes(spec, section)
    wide = audio_BL.to(torch.promote_types(audio_BL.dtype, torch.float32))
    with without_autocast(audio_BL.device):  # a product of matrices makes the mel bins
        x_BTM = spectrogram(wide, sample_rate=spec.sample_rate, window=length, step=step, mel_bins=section.mel_bins)
    return (standardise(x_BTM) if spec.audio_level == "rms" else normalise(x_BTM)).to(audio_BL.dtype)


def log_mel_shape(spec: InputConfig, section: LogMelConfig) -> tuple[int, int]:
    """(T, M) of a window. Raises ValueError: a Fourier transform has no sample."""
    return math.ceil(spec.samples / _sizes(spec, section)[1]), section.mel_bins


def check_spectrogram(spec: InputConfig, section: SpectrogramConfig) -> None:
    """Raises ValueError: the log-mel of a window has another number of patches in time than there are positions; the
    message names both fields."""
    steps, _ = log_mel_shape(spec, section)
    patches = steps // section.temporal_patch_size
    if patches != section.max_temporal_buckets:
        raise ValueError(
            f"spectrogram.max_temporal_buckets: {section.max_temporal_buckets} positions; the window of input, of "
            f"{spec.seconds:g} s, has {steps} steps of spectrogram.stft_step={section.stft_step:g} s, {patches} "
            f"patches of spectrogram.temporal_patch_size={section.temporal_patch_size}"
        )


def _sizes(spec: InputConfig, section: LogMelConfig) -> tuple[int, int]:
    """Samples of a Fourier transform, and from one to the next."""
    length, step = int(spec.sample_rate * section.stft_length), int(spec.sample_rate * section.stft_step)
    if min(length, step) < 1:
        name = "resnet" if isinstance(section, ResNetConfig) else "spectrogram"
        raise ValueError(f"{name}.stft_length, stft_step: less than a sample at {spec.sample_rate} Hz")
    return length, step
