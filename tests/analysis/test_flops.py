"""Operations counted from the configuration against those that PyTorch counts in a forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.flop_counter import count_flops
from vatt.analysis.flops import forward_flops, peak_flops, tokens, train_flops_per_sample
from vatt.models.config import HeadConfig, SpectrogramConfig, TextConfig
from vatt.presets import preset


def text_kind(kind):
    config = preset("vatt-tiny")
    # 17 position rows are what bert_small needs for 16 words: nothing is resampled (a cost of a batch, not of a clip).
    return replace(
        config, text=replace(config.text, kind=kind, max_temporal_buckets=17 if kind == "bert_small" else 16)
    )


def projections():
    config = preset("vatt-tiny")
    extra = dict(pre_projection=True, post_projection=True, d_post_proj=96)
    return replace(
        config,
        video=replace(config.video, **extra),
        waveform=replace(config.waveform, patch_sampling_rate=0.3, **extra),
    )


def spectrogram():
    part = SpectrogramConfig(d_model=64, d_kv=24, d_ff=96, num_layers=2, num_heads=2)
    return replace(preset("vatt-tiny"), audio_input="spectrogram", spectrogram=part)


def joint_head():
    return replace(preset("vatt-ma-tiny"), head=HeadConfig(kind="joint", d_va=48))


CONFIGS = {
    "vatt-tiny": lambda: preset("vatt-tiny"),
    "vatt-ma-tiny": lambda: preset("vatt-ma-tiny"),
    "bert": lambda: text_kind("bert"),
    "bert_small": lambda: text_kind("bert_small"),
    "linear": lambda: text_kind("linear"),
    "projections": projections,
    "spectrogram": spectrogram,
    "joint": joint_head,
    "mmv-tiny": lambda: preset("mmv-tiny"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_of_the_model(name, training):
    config = CONFIGS[name]()
    parts = forward_flops(config, training).values()  # PyTorch counts no Fourier transform; the model is given log-mel
    assert sum(part.total - part.log_mel for part in parts) == count_flops(config, training)


def test_published_convention():
    """One view of VATT-Medium: 548.1 GFLOPs published for 32 x 224 x 224 without DropToken (section 4, PAPER's note:
    the attention products counted once, within 1.3%)."""
    video = forward_flops(preset("vatt-medium"), training=False)["video"]
    published = video.total - video.attention_products / 2
    assert published == pytest.approx(548.1e9, rel=0.013)


def test_parts_and_training():
    config = preset("vatt-base")
    parts = forward_flops(config)
    assert tokens(config)["video"].total == 1568
    assert tokens(config)["video"].kept == 784
    n = 785
    assert parts["video"].attention_products == 12 * 4 * n * n * 768
    assert parts["video"].mlp == 12 * 4 * n * 768 * 3072
    assert parts["video"].patch == 2 * 784 * 768 * 4 * 16 * 16 * 3
    assert train_flops_per_sample(config) == 3 * sum(part.total for part in parts.values())
    sound = replace(config, audio_input="spectrogram")
    counted = forward_flops(sound)
    assert counted["audio"].log_mel == 150 * (2.5 * 2048 * 11 + 2 * 1025 * 80)  # 3.2 s in steps of 1,024 samples
    whole = sum(part.total for part in counted.values())
    assert train_flops_per_sample(sound) == 3 * whole - 2 * counted["audio"].log_mel
    no_text = replace(config, text=TextConfig(kind="linear"))
    assert forward_flops(no_text)["text"].mlp == 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA B300 SXM6 AC", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA GB300", 2500e12),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503.8e12),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("NVIDIA L40", None),
        ("CPU", None),
    ],
)
def test_peaks_are_found_by_whole_words(name, peak):
    assert peak_flops(name) == peak
