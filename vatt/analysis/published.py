"""The figures published with the paper, beside what this project counts for them.

Conventions of the published figures, found by comparison (all are met within 2%, parameters within 1%):

- operations: 2 per multiply-add of the matrix products, but the two products of the attention counted as one
  (2 N^2 D per layer instead of 4 N^2 D); forward pass only;
- DropToken: every patch is projected, and then tokens are dropped, as the official code does. Ours projects only those
  that are kept, so our own counts (`vatt.analysis.flops.forward_flops`) are lower: by 6% at three quarters dropped;
- inference: 4 clips x 3 crops of 32 x 320 x 320, of the video Transformer alone, with no classifier;
- pretraining: VATT-MBS, video, audio and five sentences of a clip;
- parameters: each size as a video Transformer (patches of 4 x 16 x 16 x 3, positions for 8 + 14 + 14) with the
  classifier of Kinetics-600. The published whole models are sums of these sizes: their audio and text count as video
  Transformers too, and word embeddings are left out. Ours (`vatt info`) count what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from vatt.analysis.flops import Flops, forward_flops
from vatt.models.backbones import VideoBackbone
from vatt.models.config import VATTConfig, VideoConfig
from vatt.presets import SIZES, preset

CLASSES = 600  # of Kinetics-600
VIEWS = 12  # of a clip in inference
WHOLE = {"BBS": ("base", "base", "small"), "MBS": ("medium", "base", "small"), "LBS": ("large", "base", "small")}


@dataclass(frozen=True)
class Figure:
    """One published figure in ``unit``, and ours by the same convention."""

    what: str
    unit: str
    published: float
    counted: float

    @property
    def off(self) -> float:
        """Relative deviation of ours."""
        return self.counted / self.published - 1


def published_convention(parts: Flops) -> float:
    """Operations with the attention products counted once."""
    return parts.total - parts.attention_products / 2


def figures() -> Iterator[Figure]:
    """All figures of tables that this project can count: sections 4.1 to 4.3 and the appendix on DropToken."""
    yield from _inference()
    yield from _pretraining()
    yield from _finetuning()
    yield from _parameters()


def _inference() -> Iterator[Figure]:
    for model, teras in (("vatt-base", 9.09), ("vatt-medium", 15.02), ("vatt-large", 29.80), ("vatt-ma-medium", 15.02)):
        counted = VIEWS * _video(preset(model), 32, 320, keep=None)
        yield Figure(f"{model}: inference, 12 views of 32x320x320", "TFLOPs", teras, counted / 1e12)


def _pretraining() -> Iterator[Figure]:
    config = preset("vatt-medium")
    for keep, gigas in ((0.25, 188.1), (0.5, 375.4), (0.75, 574.2), (1.0, 784.8)):
        kept = replace(
            config,
            video=replace(config.video, patch_sampling_rate=keep),
            waveform=replace(config.waveform, patch_sampling_rate=keep),
        )
        counted = sum(published_convention(part) for part in forward_flops(kept, project_all=True).values())
        yield Figure(f"vatt-medium: pretraining, {1 - keep:.0%} dropped", "GFLOPs", gigas, counted / 1e9)


def _finetuning() -> Iterator[Figure]:
    config = preset("vatt-medium")
    rows = ((32, 224, 1.0, 548.1), (64, 224, 1.0, 1222.1), (32, 320, 0.25, 279.8), (32, 320, 0.5, 572.5))
    for frames, size, keep, gigas in (*rows, (32, 320, 0.75, 898.9), (32, 320, 1.0, 1252.3)):
        what = f"vatt-medium: fine-tuning on {frames}x{size}x{size}, {1 - keep:.0%} dropped"
        yield Figure(what, "GFLOPs", gigas, _video(config, frames, size, keep) / 1e9)


def _video(config: VATTConfig, frames: int, size: int, keep: float | None) -> float:
    """Operations of the video part on one clip; ``keep``: the share of its tokens that stay, None without DropToken."""
    sides = size // 16
    spec = replace(config.input, frames=frames, size=size)
    rate = 1.0 if keep is None else keep
    buckets: dict[str, Any] = dict(
        max_temporal_buckets=frames // 4, max_vertical_buckets=sides, max_horizontal_buckets=sides
    )
    resized = replace(config, input=spec, video=replace(config.video, patch_sampling_rate=rate, **buckets))
    return published_convention(forward_flops(resized, keep is not None, project_all=True)["video"])


def _parameters() -> Iterator[Figure]:
    for size, millions in (("small", 20.9), ("base", 87.9), ("medium", 155.0), ("large", 306.1)):
        yield Figure(f"{size}: parameters of a backbone", "M", millions, _backbone(size) / 1e6)
    for name, millions in (("BBS", 197.0), ("MBS", 264.0), ("LBS", 415.0)):
        counted = sum(map(_backbone, WHOLE[name]))
        yield Figure(f"{name}: parameters of the whole model", "M", millions, counted / 1e6)
    yield Figure("MA-Medium: parameters of the whole model", "M", 155.0, _backbone("medium") / 1e6)


def _backbone(size: str) -> int:
    with torch.device("meta"):
        model = VideoBackbone(VideoConfig(**SIZES[size]))  # type: ignore[arg-type]
    width = SIZES[size]["d_model"]
    return sum(p.numel() for p in model.parameters()) + CLASSES * (width + 1)
