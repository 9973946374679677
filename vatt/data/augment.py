"""The paper's augmentation: one crop, flip and colour change per clip, and noise on the sound.

Brightness, saturation, hue and contrast are one affine map of luma and chroma (`vatt.data.decode.Colours`), which
FFmpeg's filters apply on a CPU and `vatt.kernels.frames_to_patches` on a GPU. It differs from the official pipeline
(tf.image) in this: hue is turned in the chroma plane, not in HSV; and contrast comes last and spreads all channels
around the mean luma of the first frame, not each around its own mean.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch

from vatt.data.config import AugmentConfig
from vatt.data.decode import Box, Colours


class SquareView:
    """The largest square, for evaluation. ``position`` runs over the longer side, from 0 (left or top) to 1."""

    flip = False

    def __init__(self, position: float = 0.5) -> None:
        self.position = position

    def box(self, height: int, width: int) -> Box:
        side = min(height, width)
        return Box(int((height - side) * self.position), int((width - side) * self.position), side, side)

    def colours(self, mean_luma: float) -> Colours | None:
        return None


class CentreView(SquareView):
    """The largest square in the middle."""

    def __init__(self) -> None:
        super().__init__(0.5)


class RandomView:
    """A random crop, flip and colour change, drawn once: the same for all frames of a clip."""

    def __init__(self, config: AugmentConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.crops = rng.uniform(size=(10, 4))  # area, aspect, position down and across: ten tries
        self.flip = config.flip and bool(rng.random() < 0.5)
        self.brightness = rng.uniform(-config.brightness, config.brightness)
        self.saturation = rng.uniform(1 - config.saturation, 1 + config.saturation)
        self.contrast = rng.uniform(1 - config.contrast, 1 + config.contrast)
        self.hue = 2 * math.pi * rng.uniform(-config.hue, config.hue)

    def box(self, height: int, width: int) -> Box:
        """A crop of random area and aspect; the whole picture if none of ten draws fits into it."""
        low, high = math.log(self.config.aspect_min), math.log(self.config.aspect_max)
        for share, slant, down, across in self.crops:
            area = (self.config.area_min + share * (self.config.area_max - self.config.area_min)) * height * width
            aspect = math.exp(low + slant * (high - low))
            box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 2 <= box_height <= height and 2 <= box_width <= width:
                top, left = int(down * (height - box_height + 1)), int(across * (width - box_width + 1))
                return Box(top, left, box_height, box_width)
        return Box(0, 0, height, width)

    def colours(self, mean_luma: float) -> Colours | None:
        """Brightness, saturation and hue, then contrast around the mean luma."""
        config = self.config
        if not (config.brightness or config.saturation or config.contrast or config.hue):
            return None
        middle = min(max(mean_luma + self.brightness, 0.0), 1.0)
        offset = self.contrast * self.brightness + (1 - self.contrast) * middle
        return Colours(self.contrast, offset, self.contrast * self.saturation, self.hue)


def augment_audio(
    audio_L: np.ndarray, config: AugmentConfig, rng: np.random.Generator, out_L: np.ndarray | None = None
) -> np.ndarray:
    """Adds Gaussian noise in proportion to the loudest sample and clips to [-1, 1]; float32 (L,).

    In ``out_L`` where it is given, which may be ``audio_L`` itself.
    """
    peak = max(float(audio_L.max(initial=0.0)), -float(audio_L.min(initial=0.0)))
    if config.audio_noise == 0 or peak == 0:
        if out_L is None:
            return audio_L
        out_L[:] = audio_L
        return out_L
    noise = np.empty(len(audio_L), np.float32)
    drawn = rng.integers(0, 65536, len(audio_L), np.uint16)
    np.take(_gaussian(), drawn, out=noise, mode="clip")  # no index is outside, which then is not looked for
    noise *= np.float32(config.audio_noise * peak)
    noise += audio_L
    return np.clip(noise, -1, 1, out=noise if out_L is None else out_L)


@cache
def _gaussian() -> np.ndarray:
    """float32 (65536,): the quantiles of the normal distribution, with unit variance. To draw one of them takes a
    quarter of the time of `standard_normal`; none is beyond 4.4."""
    quantiles = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return (quantiles / quantiles.square().mean().sqrt()).to(torch.float32).numpy()
