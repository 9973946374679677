"""A pretrained backbone for fine-tuning: out of a whole VATT (separate or modality-agnostic) or another classifier.

Official restore: position tables of another size are resampled with the spline and kept at the new size, all else must
match in shape, and the classification layer is left alone. A modality-agnostic model brings its two projections along.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.models.backbones import Backbone
from vatt.models.classifier import Classifier
from vatt.models.config import (
    ClassifierConfig,
    I3DConfig,
    ResNetConfig,
    TransformerConfig,
    VATTConfig,
    VideoConfig,
    WaveformConfig,
)
from vatt.models.mmv import ConvBackbone
from vatt.models.positions import resample
from vatt.models.vatt import VATT
from vatt.weights.folder import PretrainedError


def backbone_config(
    config: VATTConfig | ClassifierConfig, modality: str
) -> VideoConfig | WaveformConfig | I3DConfig | ResNetConfig:
    """The configuration of the backbone that reads ``modality`` ("video" or "audio"), on its own.

    Raises:
        PretrainedError: the model has no such backbone.
    """
    if isinstance(config, ClassifierConfig):
        if config.modality != modality:
            raise PretrainedError(f"{config.name}: reads {config.modality}, not {modality}")
        return replace(config.backbone)
    if config.backbone == "convolutional":
        return replace(config.i3d) if modality == "video" else replace(config.resnet)
    if config.backbone == "separate":
        if modality == "audio" and config.audio_input != "waveform":
            raise PretrainedError(
                f"{config.name}: its audio backbone reads spectrograms; only waveforms are fine-tuned"
            )
        return replace(config.video if modality == "video" else config.waveform)
    shared = config.unified
    common = {item.name: getattr(shared, item.name) for item in fields(TransformerConfig)}
    common |= dict(
        random_patch_sampling=shared.random_patch_sampling,
        patch_sampling_rate=shared.patch_sampling_rate,
        sample_per_item=shared.sample_per_item,
        pre_projection=True,
        post_projection=True,
        d_post_proj=shared.d_post_proj,
    )
    if modality == "video":
        return VideoConfig(
            **common,
            temporal_patch_size=shared.vid_temporal_patch_size,
            spatial_patch_size=shared.vid_spatial_patch_size,
            max_temporal_buckets=shared.max_vid_temporal_buckets,
            max_vertical_buckets=shared.max_vid_spatial_buckets,
            max_horizontal_buckets=shared.max_vid_spatial_buckets,
        )
    return WaveformConfig(
        **common,
        temporal_patch_size=shared.aud_temporal_patch_size,
        max_temporal_buckets=shared.max_aud_temporal_buckets,
    )


def fit_positions(section: VideoConfig | WaveformConfig | I3DConfig | ResNetConfig, spec: InputConfig) -> None:
    """Gives the position tables of a backbone as many rows as clips of ``spec`` have patches along each axis. A
    convolutional network has none, and reads clips of any size.

    Raises:
        ValueError: a clip is smaller than one patch; the message names the field.
    """
    if isinstance(section, I3DConfig | ResNetConfig):
        return
    if isinstance(section, VideoConfig):
        section.max_temporal_buckets = spec.frames // section.temporal_patch_size
        section.max_vertical_buckets = section.max_horizontal_buckets = spec.size // section.spatial_patch_size
        rows = min(section.max_temporal_buckets, section.max_vertical_buckets)
    else:
        section.max_temporal_buckets = rows = spec.samples // section.temporal_patch_size
    if rows < 1:
        raise ValueError(f"input: {spec.frames} frames of {spec.size} px, {spec.samples} samples: less than one patch")


def restore_backbone(target: Classifier, source: VATT | Classifier, modality: str) -> list[str]:
    """Copies the pretrained backbone into ``target.backbone`` and returns the position tables that were resampled.

    Raises:
        PretrainedError: a tensor is missing, left over, or of another shape; the message names it with both shapes.
    """
    weights = backbone_weights(source, modality)
    wanted = target.backbone.state_dict()
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unknown:
        raise PretrainedError(
            f"the {modality} backbone does not fit: the pretrained one lacks {missing[:3]} and has {unknown[:3]} "
            "beside (a modality-agnostic model needs pre_projection and post_projection)"
        )
    tables = {f"tokens.positions.{axis}" for axis in _axes(target.backbone)}
    resampled = []
    for name, value in wanted.items():
        found = weights[name]
        if name in tables and found.shape[0] != value.shape[0] and found.shape[1] == value.shape[1]:
            weights[name] = found = resample(found, value.shape[0])
            resampled.append(name)
        if found.shape != value.shape:
            raise PretrainedError(f"{name}: pretrained shape {tuple(found.shape)}, this model: {tuple(value.shape)}")
    target.backbone.load_state_dict(weights)
    return resampled


def _axes(backbone: Backbone | ConvBackbone) -> tuple[str, ...]:
    return backbone.tokens.positions.axes if isinstance(backbone, Backbone) else ()


def backbone_weights(source: VATT | Classifier, modality: str) -> dict[str, Tensor]:
    """Weights of the backbone of a modality, by the names that a `Backbone` of its own has.

    Raises:
        PretrainedError: the model has no such backbone.
    """
    if source.config is not None:
        backbone_config(source.config, modality)
    with torch.no_grad():
        if isinstance(source, Classifier):
            return dict(source.backbone.state_dict())
        if source.unified is None:
            part: Backbone | ConvBackbone = source.video if modality == "video" else source.audio
            return dict(part.state_dict())
        unified = source.unified
        tokens = unified.video_tokens if modality == "video" else unified.audio_tokens
        parts = {"tokens": tokens, "encoder": unified.encoder, "post_projection": unified.post_projections[modality]}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
