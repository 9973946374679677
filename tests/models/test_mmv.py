"""The convolutional baseline: padding and pooling by their definition, batch norm, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from train.config.sections import EngineConfig, refuse_for_convolutions
from train.finetuning.cli import parse as finetuning
from vatt.analysis.memory import activation_bytes
from vatt.config import ConfigError, from_dict, override, to_dict
from vatt.models import I3D, VATT, Classifier
from vatt.models.config import BatchNormConfig, ClassifierConfig, I3DConfig, VATTConfig
from vatt.models.mmv.layers import Conv, ConvBatchNorm, max_pool, same_padding
from vatt.objectives.parts import refusals
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

SIZES = range(1, 12)


@pytest.fixture(scope="module")
def tiny():
    config = override(preset("mmv-tiny"), ["text.vocab_size=20", "input.size=32", "input.frames=8", "input.fps=10"])
    torch.manual_seed(0)
    return VATT(config)


def padded(x, kernel, stride, value):
    """As TensorFlow defines SAME: places of the output times the stride, and what a window then lacks."""
    pads = []
    for size, side, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + side - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads, value=value)


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (2, 2), (3, 1)])
def test_pooling_is_that_of_padding_that_never_wins(side, stride):
    for size in SIZES:
        x = torch.randn(1, 2, size, 5, 7) - 9  # below 0, which zeros would win
        kernel, steps = (side, 1, side), (stride, 1, stride)
        wanted = F.max_pool3d(padded(x, kernel, steps, float("-inf")), kernel, steps)
        assert torch.equal(max_pool(x, kernel, steps), wanted), size
        assert wanted.shape[2] == -(-size // stride)


def test_convolutions_pad_by_the_size_of_the_input():
    assert [same_padding(size, 7, 2) for size in (8, 9)] == [(2, 3), (3, 3)]
    conv, fixed = Conv(2, 3, (7, 7), 2), Conv(2, 3, (7, 7), 2, same=False)
    for size in SIZES:
        x = torch.randn(1, 2, size, 6)
        wanted = F.conv2d(padded(x, (7, 7), (2, 2), 0.0), conv.weight, stride=2)
        torch.testing.assert_close(conv(x), wanted)
        torch.testing.assert_close(fixed(x), F.conv2d(x, fixed.weight, stride=2, padding=3))


def test_a_network_stays_channels_last(tiny):
    shapes = []
    hooks = [
        part.register_forward_hook(lambda _, given, out: shapes.append((given[0], out)))
        for part in tiny.modules()
        if isinstance(part, Conv)
    ]
    with torch.no_grad():
        tiny.eval()(torch.zeros(2, 8, 32, 32, 3, dtype=torch.uint8), torch.randn(2, 38400))
    for hook in hooks:
        hook.remove()
    assert len(shapes) == len(hooks) == 57 + 53
    for pair in shapes:
        for x in pair:
            form = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
            assert x.is_contiguous(memory_format=form)


def test_batch_norm_of_maps():
    """The same as that of rows; a batch that is not finite leaves no trace; half types keep float32 statistics."""
    config = BatchNormConfig()
    norm, x = ConvBatchNorm(3, config).double(), torch.randn(4, 3, 2, 5, dtype=torch.float64)
    rows = x.movedim(1, -1).flatten(0, -2)
    mean, var = rows.mean(0), rows.var(0, correction=0)
    wanted = (rows - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(norm(x).movedim(1, -1).flatten(0, -2), wanted)
    torch.testing.assert_close(norm.running_var, (0.9 + 0.1 * var).float())
    torch.testing.assert_close(norm.running_mean, (0.1 * mean).float())
    before = norm.running_mean.clone()
    norm(torch.full_like(x, float("nan")))
    assert torch.equal(norm.running_mean, before)
    half = norm.bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half.running_var.dtype == torch.float32


def test_a_new_model_trains_in_bfloat16_and_a_frozen_network_keeps_its_statistics(tiny):
    module = Pretraining(tiny.config).bfloat16().train()
    batch = {
        "video": torch.randint(0, 256, (3, 8, 32, 32, 3), dtype=torch.uint8),
        "audio": torch.rand(3, 38400, dtype=torch.bfloat16) - 0.5,
        "text": torch.ones(3, 2, 4, dtype=torch.int64),
    }
    module(batch, seed=0)["loss"].backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    network = I3D(I3DConfig(width_divisor=8)).requires_grad_(False).train()
    before = {name: x.clone() for name, x in network.named_buffers()}
    network(batch["video"])
    assert all(torch.equal(x, before[name]) for name, x in network.named_buffers())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("video.patch_sampling_rate=0.25", "video.patch_sampling_rate: .* no DropToken"),
        ("waveform.random_patch_sampling=false", "waveform.random_patch_sampling"),
        ("spectrogram.num_layers=2", "spectrogram.num_layers"),
        ("unified.d_model=64", "unified.d_model"),
        ("audio_input=waveform", "audio_input: the convolutional backbone reads spectrograms"),
        ("i3d.width_divisor=3", "i3d.width_divisor: 3 is not one of 1, 2, 4, 8"),
        ("resnet.width_multiplier=0.01", "resnet: width_multiplier: 0.01 of 64 channels leaves none"),
    ],
)
def test_settings_that_do_not_apply_are_refused_by_name(change, words):
    with pytest.raises(ConfigError, match=words):
        override(preset("mmv-tiny"), [change])


def test_what_batch_norms_rule_out_is_refused_by_name(tiny):
    with pytest.raises(ConfigError, match=r"engine.activation_checkpointing: cannot be used"):
        refuse_for_convolutions(EngineConfig(activation_checkpointing=True), convolutional=True)
    with pytest.raises(ConfigError, match=r"engine.contrastive_parts: cannot be used"):
        refuse_for_convolutions(EngineConfig(contrastive_parts=2), convolutional=True)
    refuse_for_convolutions(EngineConfig(activation_checkpointing=True, contrastive_parts=2), convolutional=False)
    with pytest.raises(ValueError, match="activation_checkpointing"):
        tiny.activation_checkpointing = True
    with pytest.raises(ValueError, match="contrastive_parts"):
        activation_bytes(tiny.config, torch.float32, 4, parts=2)
    (reason,) = refusals(Pretraining(tiny.config))
    assert "vatt.video.layers.conv3d_1a_7x7.bn (and 109 others)" in reason
    with pytest.raises(ValueError, match="video: a convolutional network keeps all of a signal"):
        tiny.video(torch.zeros(1, 8, 32, 32, 3), kept=torch.arange(2))
    with pytest.raises(ValueError, match="video: expected 5 dimensions with 3 channels last, got"):
        tiny.video(torch.zeros(1, 3, 8, 32, 32))


def test_fine_tuning_takes_the_network_of_a_preset():
    for task, field in (("video", "i3d"), ("audio", "resnet")):
        model = finetuning(["--config", "sample", "--task", task, "--model", "mmv-tiny"]).config.model
        assert (model.network, model.name) == ("convolutional", f"mmv-tiny-{task}")
        assert getattr(model, field) == getattr(preset("mmv-tiny"), field)
        assert from_dict(ClassifierConfig, to_dict(model)) == model
        assert Classifier.from_config(model).backbone.width == getattr(model, field).width
    with pytest.raises(ConfigError, match=r"video.patch_sampling_rate: has no meaning"):
        finetuning(["--config", "sample", "--model", "mmv-tiny", "model.video.patch_sampling_rate=0.3"])
    assert from_dict(VATTConfig, to_dict(preset("mmv-i3d"))) == preset("mmv-i3d")
