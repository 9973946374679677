"""Log-mel spectrograms with the official conventions (data/processing.py).

Shapes: B batch, L samples, T frames, F frequency bins, M mel bins.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

MEL_BREAK, MEL_SCALE = 700.0, 1127.0  # HTK: mel = 1127 ln(1 + f / 700)
_LEAST_DEVIATION = 0.1  # of a log-mel: that of white noise is 0.3, of sounds 1 to 2


def mel_matrix(mel_bins: int, fft_bins: int, sample_rate: int, low: float = 80.0, high: float = 7600.0) -> Tensor:
    """HTK triangular filters, float32 (fft_bins, mel_bins): without area normalisation, the DC bin zero.

    The triangles are linear in mel between ``low`` and ``high`` Hz (as tf.signal.linear_to_mel_weight_matrix).
    """
    frequencies = torch.linspace(0.0, sample_rate / 2, fft_bins, dtype=torch.float64)[1:]
    mels = MEL_SCALE * torch.log1p(frequencies / MEL_BREAK)
    edges = torch.linspace(_mel(low), _mel(high), mel_bins + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (mels[:, None] - left) / (centre - left)
    falling = (right - mels[:, None]) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    return F.pad(filters, (0, 0, 1, 0)).to(torch.float32)


def spectrogram(
    waveform: Tensor,
    *,
    sample_rate: int = 48000,
    window: int = 2048,
    step: int = 1024,
    mel_bins: int | None = 40,
    log: bool = True,
) -> Tensor:
    """(Log-)mel spectrogram of a waveform.

    A periodic Hann window; frames start at multiples of ``step``, with zeros after the end, so there are
    ceil(L / step) of them; FFT of the window's length; magnitude, not power.

    Args:
        waveform: float (..., L).
        sample_rate: Hz.
        window, step: samples; the official code has int(sample_rate * seconds).
        mel_bins: M, or None for the linear spectrum with F = window // 2 + 1 bins.
        log: natural log(1 + 10000 x). The official source calls a logarithm that TensorFlow 2 no longer has.

    Returns:
        float (..., T, M) or (..., T, F).

    Raises:
        ValueError: an empty waveform, or sizes that are not positive.
    """
    if waveform.shape[-1] == 0 or window <= 0 or step <= 0:
        raise ValueError(f"waveform: {tuple(waveform.shape)}, window {window}, step {step}: all must be positive")
    frames = math.ceil(waveform.shape[-1] / step)
    padded = F.pad(waveform, (0, max((frames - 1) * step + window - waveform.shape[-1], 0)))
    # Copied to a GPU once: it would make the host wait in each step. Fake tensors must not get into the cache.
    real = type(waveform) is Tensor
    made = waveform.device, waveform.dtype
    hann = (_hann if real else _hann.__wrapped__)(window, *made)
    spectrum = torch.fft.rfft(padded.unfold(-1, window, step)[..., :frames, :] * hann).abs()
    if mel_bins is not None:
        spectrum = spectrum @ (_mels if real else _mels.__wrapped__)(mel_bins, window // 2 + 1, sample_rate, *made)
    return torch.log1p(10000.0 * spectrum) if log else spectrum


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is cached in inference must also serve training
def _hann(window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(window, periodic=True, dtype=dtype, device="cpu").to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _mels(mel_bins: int, fft_bins: int, sample_rate: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return mel_matrix(mel_bins, fft_bins, sample_rate).to(device, dtype)


def normalise(x: Tensor) -> Tensor:
    """(B, T, M) to [0, 1], by the least and the largest value of each item. A constant item becomes 0."""
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low), torch.zeros_like(x))


def standardise(x: Tensor) -> Tensor:
    """(B, T, M) to the mean 0 and the deviation 1 of each item; what hardly varies, such as silence, stays small."""
    centred = x - x.mean((-2, -1), keepdim=True)
    return centred / centred.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=_LEAST_DEVIATION)


def _mel(hertz: float) -> float:
    return MEL_SCALE * math.log1p(hertz / MEL_BREAK)
