"""The named models: sizes of the official configurations, tiny ones for a CPU, and a small one for minutes on a GPU.

The paper names a modality-specific model by the sizes of its video, audio and text backbone: BBS is Base-Base-Small.
``mmv-*`` are the convolutional baseline that it compares with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vatt.clip import InputConfig
from vatt.config import ConfigError, nearest
from vatt.models.config import (
    ClassifierConfig,
    HeadConfig,
    I3DConfig,
    ResNetConfig,
    SpectrogramConfig,
    TextConfig,
    UnifiedConfig,
    VATTConfig,
    VideoConfig,
    WaveformConfig,
)

# Width and depth of the official configurations (google-research/vatt/configs), and two that are ours: tiny and mini.
SIZES: dict[str, dict[str, int]] = {
    "small": dict(num_layers=6, d_model=512, d_kv=64, d_ff=2048, num_heads=8),
    "base": dict(num_layers=12, d_model=768, d_kv=64, d_ff=3072, num_heads=12),
    "medium": dict(num_layers=12, d_model=1024, d_kv=64, d_ff=4096, num_heads=16),
    "large": dict(num_layers=24, d_model=1024, d_kv=64, d_ff=4096, num_heads=16),
    "xlarge": dict(num_layers=24, d_model=1536, d_kv=64, d_ff=4096, num_heads=24),
    "tiny": dict(num_layers=3, d_model=128, d_kv=32, d_ff=512, num_heads=4),
    "mini": dict(num_layers=6, d_model=256, d_kv=64, d_ff=1024, num_heads=4),
}


def _separate(name: str, video: str, audio: str, text: str) -> VATTConfig:
    return VATTConfig(
        name=name,
        backbone="separate",
        video=VideoConfig(**_size(video)),
        waveform=WaveformConfig(**_size(audio)),
        spectrogram=SpectrogramConfig(**_size(audio)),
        text=TextConfig(kind="t5", **_size(text)),
    )


def _unified(name: str, size: str) -> VATTConfig:
    return VATTConfig(name=name, backbone="unified", unified=UnifiedConfig(**_size(size)))


def _size(name: str) -> dict[str, Any]:
    return dict(SIZES[name])


# The tiny pair reads smaller clips (64 x 64 pixels, waveform patches of 512 samples) so that two CPU cores train it in
# minutes. It trains its word embeddings, since it has no word2vec table to start from.
_TINY_INPUT = InputConfig(size=64, candidates=3)
_TINY_VIDEO: dict[str, Any] = dict(max_vertical_buckets=4, max_horizontal_buckets=4)
_TINY_AUDIO: dict[str, Any] = dict(temporal_patch_size=512, max_temporal_buckets=300)
_TINY_RATES: dict[str, Any] = dict(dropout_rate=0.0, position_dropout_rate=0.0)


def _tiny(name: str, size: str = "tiny", layers_of_text: int = 2) -> VATTConfig:
    """``vatt-tiny``, or with another size one that reads the same clips: ``vatt-small``."""
    width = SIZES[size]["d_model"]
    words = dict(_size(size), num_layers=layers_of_text, d_embedding=width // 2)
    return VATTConfig(
        name=name,
        backbone="separate",
        input=replace(_TINY_INPUT),
        video=VideoConfig(**_size(size), **_TINY_VIDEO, **_TINY_RATES),
        waveform=WaveformConfig(**_size(size), **_TINY_AUDIO, **_TINY_RATES),
        spectrogram=SpectrogramConfig(**_size(size), **_TINY_RATES),
        text=TextConfig(**words, trainable_embeddings=True, embedding_reach=2.0, **_TINY_RATES),
        head=HeadConfig(d_va=width, d_vat=width // 2),
    )


def _ma_tiny(name: str) -> VATTConfig:
    unified = UnifiedConfig(
        **_size("tiny"),
        **_TINY_RATES,
        aud_temporal_patch_size=512,
        max_vid_spatial_buckets=4,
        max_aud_temporal_buckets=300,
        d_post_proj=128,
        txt_embedding_dim=64,
        txt_embedding_trainable=True,
        txt_embedding_reach=2.0,  # as large as the position embeddings, which would drown smaller words
    )
    return VATTConfig(
        name=name, backbone="unified", input=replace(_TINY_INPUT), unified=unified, head=HeadConfig(d_va=128, d_vat=64)
    )


def _mmv(name: str) -> VATTConfig:
    """The official mmv_fac, with its default sizes."""
    text = TextConfig(kind="linear", d_model=2048)
    return VATTConfig(name=name, backbone="convolutional", audio_input="spectrogram", text=text)


def _mmv_tiny(name: str) -> VATTConfig:
    """Sections as narrow as they come, on what vatt-tiny reads."""
    return VATTConfig(
        name=name,
        backbone="convolutional",
        audio_input="spectrogram",
        input=replace(_TINY_INPUT),
        i3d=I3DConfig(width_divisor=8),
        resnet=ResNetConfig(width_multiplier=0.125),
        text=TextConfig(kind="linear", d_model=128, d_embedding=64, trainable_embeddings=True, embedding_reach=2.0),
        head=HeadConfig(d_va=128, d_vat=64),
    )


PRESETS: dict[str, Callable[[], VATTConfig]] = {
    "vatt-tiny": lambda: _tiny("vatt-tiny"),
    "vatt-small": lambda: _tiny("vatt-small", "mini", layers_of_text=4),
    "vatt-base": lambda: _separate("vatt-base", "base", "base", "small"),
    "vatt-medium": lambda: _separate("vatt-medium", "medium", "base", "small"),
    "vatt-large": lambda: _separate("vatt-large", "large", "base", "small"),
    "vatt-ma-tiny": lambda: _ma_tiny("vatt-ma-tiny"),
    "vatt-ma-base": lambda: _unified("vatt-ma-base", "base"),
    "vatt-ma-medium": lambda: _unified("vatt-ma-medium", "medium"),
    "vatt-ma-large": lambda: _unified("vatt-ma-large", "large"),
    "mmv-tiny": lambda: _mmv_tiny("mmv-tiny"),
    "mmv-i3d": lambda: _mmv("mmv-i3d"),
}


def preset(name: str) -> VATTConfig:
    """A fresh configuration of the named model.

    Raises:
        ConfigError: no such name; the message holds the nearest one.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown model {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]()


# The inputs of the official fine-tuning: 2.56 s at 320 x 320 pixels for video, 6.4 s of sound at 24 kHz (section 4.2).
_VIDEO_INPUT: dict[str, Any] = dict(frames=32, fps=12.5, size=320)
_AUDIO_INPUT: dict[str, Any] = dict(frames=64, fps=10.0, sample_rate=24000)


def _vit(size: str) -> ClassifierConfig:
    return ClassifierConfig(
        name=f"vit-{size}",
        modality="video",
        input=InputConfig(**_VIDEO_INPUT),
        video=VideoConfig(
            **_size(size), max_vertical_buckets=20, max_horizontal_buckets=20, random_patch_sampling=False
        ),
    )


def _wat(size: str) -> ClassifierConfig:
    return ClassifierConfig(
        name=f"wat-{size}",
        modality="audio",
        input=InputConfig(**_AUDIO_INPUT),
        waveform=WaveformConfig(**_size(size), random_patch_sampling=False),
        num_classes=527,
        labels="multi",
        dropout=0.0,
    )


CLASSIFIERS: dict[str, Callable[[], ClassifierConfig]] = {
    "vit-base": lambda: _vit("base"),
    "vit-medium": lambda: _vit("medium"),
    "vit-large": lambda: _vit("large"),
    "wat-base": lambda: _wat("base"),
    "wat-medium": lambda: _wat("medium"),
}


def classifier_preset(name: str) -> ClassifierConfig:
    """A fresh configuration of the named fine-tuned model: Kinetics-400 for ``vit-*``, AudioSet for ``wat-*``.

    Raises:
        ConfigError: no such name; the message holds the nearest one.
    """
    if name not in CLASSIFIERS:
        raise ConfigError(f"unknown model {name!r}; {nearest(name, CLASSIFIERS)}")
    return CLASSIFIERS[name]()
