"""Parameters, operations, bytes and memory per clip, of every model and phase: what ``vatt accounting`` prints.

Phases: pretraining with DropToken (all modalities), fine-tuning of the video Transformer (all tokens) at 224 and 320
pixels, and its inference with 12 views. Operations: `vatt.analysis.flops`; a step is three forward passes. Activations
and bytes moved: `vatt.analysis.memory`, for our kernels in bfloat16; per clip, of a batch of ``BATCH``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from vatt.analysis.describe import parameters
from vatt.analysis.flops import forward_flops, tokens
from vatt.analysis.memory import activation_bytes, traffic_bytes
from vatt.models.config import VATTConfig
from vatt.presets import preset

BATCH = 8  # clips that share what a batch has once (weights, position tables)
VIEWS = 12  # of a clip in inference


@dataclass(frozen=True)
class Account:
    """One model in one phase, per clip; a figure that the phase does not have is None.

    ``parameters`` and ``forward`` (operations) are those of the parts in use; ``step``: operations of forward and
    backward pass; ``activations``: bytes kept for the backward pass; ``traffic``: lower bound of the bytes that a step
    moves.
    """

    model: str
    phase: str
    input: str
    tokens: int
    parameters: int
    forward: int
    step: int | None
    activations: int | None
    traffic: int | None


def accounts(name: str) -> Iterator[Account]:
    """All phases of a preset. Raises ConfigError for an unknown name."""
    config, dtype = preset(name), torch.bfloat16
    counts = parameters(config)
    kept = activation_bytes(config, dtype, BATCH)
    forward = sum(part.total for part in forward_flops(config).values())
    spec = config.input
    words = f"{spec.frames}x{spec.size}x{spec.size}, {spec.seconds:g} s, {spec.candidates}x{spec.words} words"
    rows = tokens(config)
    used = sum(count.kept * (spec.candidates if name == "text" else 1) for name, count in rows.items())
    moved = traffic_bytes(kept, dtype, counts["total"]) // BATCH
    yield Account(name, "pretraining", words, used, counts["total"], forward, 3 * forward, kept.total // BATCH, moved)
    large = spec.size * 10 // 7 // 16 * 16  # 224 -> 320, in whole patches
    for size in (spec.size, large):
        yield _fine_tuning(_all_tokens(config, size), counts, dtype)
    yield _inference(_all_tokens(config, large), counts)


def _all_tokens(config: VATTConfig, size: int) -> VATTConfig:
    """The model without DropToken, for frames of ``size`` pixels, with position tables that fit them."""
    spec = replace(config.input, size=size)
    if config.backbone == "convolutional":
        return replace(config, input=spec)
    keep: dict[str, Any] = dict(random_patch_sampling=False)
    if config.backbone == "unified":
        side = size // config.unified.vid_spatial_patch_size
        return replace(config, input=spec, unified=replace(config.unified, max_vid_spatial_buckets=side, **keep))
    side = size // config.video.spatial_patch_size
    buckets: dict[str, Any] = dict(max_vertical_buckets=side, max_horizontal_buckets=side)
    return replace(config, input=spec, video=replace(config.video, **buckets, **keep))


def _input(config: VATTConfig) -> str:
    return f"{config.input.frames}x{config.input.size}x{config.input.size}"


def _video_parameters(config: VATTConfig, counts: dict[str, int]) -> int:
    return counts["unified"] - counts["words"] if config.backbone == "unified" else counts["video"]


def _video_tokens(config: VATTConfig) -> int:
    """0 of a convolutional network, which has none."""
    found = tokens(config, training=False).get("video")
    return found.total if found else 0


def _fine_tuning(config: VATTConfig, counts: dict[str, int], dtype: torch.dtype) -> Account:
    forward = forward_flops(config, training=False)["video"].total
    whole = activation_bytes(config, dtype, BATCH)
    kept = replace(whole, samples={"video": whole.samples["video"]}, constant=0, gathered=0, pairs=0)
    weights = _video_parameters(config, counts)
    moved = traffic_bytes(kept, dtype, weights) // BATCH
    count = _video_tokens(config)
    return Account(
        config.name, "fine-tuning", _input(config), count, weights, forward, 3 * forward, kept.total // BATCH, moved
    )


def _inference(config: VATTConfig, counts: dict[str, int]) -> Account:
    forward = VIEWS * forward_flops(config, training=False)["video"].total
    count = VIEWS * _video_tokens(config)
    words = f"{VIEWS} views of {_input(config)}"
    return Account(config.name, "inference", words, count, _video_parameters(config, counts), forward, None, None, None)
