"""The paper's augmentation: one crop, flip and colour change a clip, and noise on the sound.

The colour changes are put together into one affine map of RGB, applied once. Hue is turned in the YIQ plane, a linear
map, where the official pipeline turns it in HSV; both leave grey alone and turn a colour by the same share
of the circle.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from vatt.data.config import AugmentConfig
from vatt.data.decode import Box

_GREY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def random_box(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> Box:
    """A crop of random area and aspect; the whole picture if none of ten draws fits into it."""
    for _ in range(10):
        area = rng.uniform(config.area_min, config.area_max) * height * width
        aspect = math.exp(rng.uniform(math.log(config.aspect_min), math.log(config.aspect_max)))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 2 <= box_height <= height and 2 <= box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return Box(int(top), int(left), box_height, box_width)
    return Box(0, 0, height, width)


def centre_box(height: int, width: int) -> Box:
    """The largest square in the middle."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def augment_frames(frames_THW3: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Flips and recolours a clip, uint8 to uint8 (T, H, W, 3). Values are clipped once, at the end."""
    if config.flip and rng.random() < 0.5:
        frames_THW3 = frames_THW3[:, :, ::-1]
    matrix, shift = _colour_map(frames_THW3, config, rng)
    if matrix is None:
        return np.ascontiguousarray(frames_THW3)
    count = frames_THW3.size // 3
    group = math.gcd(count, 16)  # as one product of groups of pixels: 3 x 3 alone is too small to be fast
    map_GG = torch.from_numpy(np.kron(np.eye(group), matrix).astype(np.float32))
    shift_G = torch.from_numpy(np.tile(shift, group).astype(np.float32))
    pixels = torch.from_numpy(np.ascontiguousarray(frames_THW3)).view(count // group, group * 3).float()
    out = torch.addmm(shift_G + 0.5, pixels, map_GG.T).clamp_(0, 255)  # the 0.5 makes the cast round
    return out.to(torch.uint8).view(frames_THW3.shape).numpy()


def _colour_map(
    frames_THW3: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray]:
    """Brightness, saturation, contrast and hue, in this order, as rgb -> matrix @ rgb + shift (in 0..255)."""
    shift = np.full(3, 255 * rng.uniform(-config.brightness, config.brightness))
    saturation = rng.uniform(1 - config.saturation, 1 + config.saturation)
    contrast = rng.uniform(1 - config.contrast, 1 + config.contrast)
    angle = 2 * math.pi * rng.uniform(-config.hue, config.hue)
    if not any((config.brightness, config.saturation, config.contrast, config.hue)):
        return None, shift
    matrix = saturation * np.eye(3) + (1 - saturation) * _GREY[None]
    shift = matrix @ shift
    mean = matrix @ frames_THW3[:, ::4, ::4].reshape(-1, 3).mean(0) + shift
    matrix, shift = contrast * matrix, contrast * shift + (1 - contrast) * mean
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    hue = _FROM_YIQ @ turn @ _TO_YIQ
    return hue @ matrix, hue @ shift


def augment_audio(audio_L: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise in proportion to the loudest sample and clips to [-1, 1]; float32 (L,)."""
    peak = float(np.abs(audio_L).max(initial=0.0))
    if config.audio_noise == 0 or peak == 0:
        return audio_L
    noise = rng.standard_normal(len(audio_L), dtype=np.float32) * np.float32(config.audio_noise * peak)
    return np.clip(audio_L + noise, -1, 1)
