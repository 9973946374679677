"""Modules: checkpointing, half types, positions, relative buckets, initial values, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vatt.models import VATT, Classifier, SpectrogramBackbone, TextBackbone, UnifiedBackbone, VideoBackbone
from vatt.models.config import LossConfig, SpectrogramConfig, TextConfig, VATTConfig, VideoConfig
from vatt.models.layers import MLP
from vatt.models.positions import Positions, resample, spline_matrix
from vatt.models.transformer import relative_buckets
from vatt.objectives.contrastive import ContrastiveLoss
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset


def tiny(name="vatt-tiny", **changes) -> VATTConfig:
    """The tiny preset, smaller still."""
    config = preset(name)
    config.text = replace(config.text, vocab_size=50)
    config.unified = replace(config.unified, txt_vocab_size=50)
    config.head = replace(config.head, d_va=16, d_vat=8)
    for section in ("video", "waveform", "text", "unified"):
        sizes = dict(num_layers=2, d_model=16, d_kv=8, d_ff=32, num_heads=2)
        setattr(config, section, replace(getattr(config, section), **sizes))
    return replace(config, **changes)


def batch(clips=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randint(0, 256, (clips, 32, 64, 64, 3), dtype=torch.uint8, generator=g),
        "audio": torch.rand(clips, 512 * 300, generator=g) * 2 - 1,
        "text": torch.randint(0, 50, (clips, 3, 16), generator=g),
        "audio_mask": torch.ones(clips),
        "text_mask": torch.ones(clips),
        "skipped": [],
    }


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_training_step_reaches_every_parameter_and_is_reproducible(name):
    torch.manual_seed(0)
    model, data = Pretraining(tiny(name)).train(), batch()
    first = model(data, seed=5)
    first["loss"].backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert {"loss", "vidtxt_loss", "vidaud_loss"} == {key for key in first if key.endswith("loss")}
    assert torch.equal(model(data, seed=5)["loss"], first["loss"])
    assert not torch.equal(model(data, seed=6)["loss"], first["loss"])


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_activation_checkpointing_gives_the_same_gradients(name):
    torch.manual_seed(0)
    config = tiny(name)
    for section in (config.video, config.waveform, config.text, config.unified):
        section.dropout_rate = 0.2  # the random state must be the same in the second pass
    model, data, grads, runs = Pretraining(config).train(), batch(), [], []
    for module in model.modules():
        if isinstance(module, MLP):
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    calls = []
    assert not model.vatt.activation_checkpointing
    for on in (False, True):
        model.vatt.activation_checkpointing = on
        assert model.vatt.activation_checkpointing == on
        model.zero_grad()
        torch.manual_seed(1)
        model(data, seed=1)["loss"].backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        calls.append(len(runs))
        runs.clear()
    assert calls[1] == 2 * calls[0] > 0  # every layer was computed again
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_bfloat16_trains(name):
    torch.manual_seed(0)
    model = Pretraining(tiny(name)).train()
    inputs = [batch()[name] for name in ("video", "audio", "text")]
    fp32 = model.vatt(*inputs, generator=torch.Generator().manual_seed(0))
    model.bfloat16()
    half = model.vatt(*inputs, generator=torch.Generator().manual_seed(0))
    for key in ("video/features_pooled", "audio/features_pooled", "text/features_pooled"):
        assert half[key].dtype == torch.bfloat16
        torch.testing.assert_close(half[key].float(), fp32[key], atol=0.05 * fp32[key].abs().max().item(), rtol=0)
    loss = model(batch(), seed=0)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_sections_of_a_batch_are_optional():
    model = VATT(tiny()).eval()
    out = model(video=batch()["video"])
    assert out.keys() == {"video/features_pooled", "video/toaud", "video/totxt"}
    out = model(text=batch()["text"][:, 0])
    assert out["text/tovid"].shape == (3, 8)
    with pytest.raises(ValueError, match="at least one of video, audio and text"):
        model()


def test_candidates_are_flattened_fastest():
    model, text = VATT(tiny()).eval().double(), batch()["text"]  # float64: batches of other sizes add up alike
    together = model(text=text)["text/tovid"]
    torch.testing.assert_close(together[1 * 3 + 2], model(text=text[1:2, 2])["text/tovid"][0])


def test_spectrogram_model_trains():
    small = SpectrogramConfig(num_layers=1, d_model=16, d_kv=8, d_ff=16, num_heads=2)
    config = tiny(audio_input="spectrogram", spectrogram=small)
    out = Pretraining(config).train()({**batch(), "audio": torch.rand(3, 150, 80)}, seed=0)
    assert out["loss"].isfinite()


def test_joint_head_trains_the_audio_text_pair():
    config = tiny(loss=LossConfig(aud_txt_weight=1.0))
    config.head = replace(config.head, kind="joint")
    assert Pretraining(config).train()(batch(), seed=0)["audtxt_loss"].isfinite()


def test_position_tables_follow_t_h_w():
    positions = Positions({"temporal": 2, "vertical": 3, "horizontal": 4}, 5).double()
    with torch.no_grad():  # so small that the epsilon of the norm is seen
        for axis in positions.axes:
            getattr(positions, axis).mul_(0.01)
    rows = positions((2, 3, 4)).unflatten(0, (2, 3, 4))
    t, h, w = 1, 2, 3
    total = positions.temporal[t] + positions.vertical[h] + positions.horizontal[w]
    torch.testing.assert_close(rows[t, h, w], torch.nn.functional.layer_norm(total, (5,), eps=1e-6))


def test_spline_reproduces_lines_and_rows_and_has_a_gradient():
    n = torch.arange(6, dtype=torch.float64)
    line = torch.stack([2 * n / 6 - 1, n * 0 + 3], dim=1)
    out = resample(line, 9)
    m = torch.arange(9, dtype=torch.float64)
    torch.testing.assert_close(out, torch.stack([2 * m / 9 - 1, m * 0 + 3], dim=1), atol=1e-5, rtol=0)
    table = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(resample(table, 12)[::2].detach(), table.detach(), atol=1e-5, rtol=0)
    assert torch.autograd.gradcheck(lambda t: resample(t, 4), [table])
    assert resample(table, 6) is table
    torch.testing.assert_close(resample(torch.full((1, 3), 2.0), 4), torch.full((4, 3), 2.0))


def test_spline_is_stable_for_1200_buckets():
    """README: the official float32 solve is off by order 100 here. A smooth table must stay smooth."""
    x = torch.arange(1200, dtype=torch.float64) / 1200
    matrix = spline_matrix(1200, 500).double()
    expected = torch.sin(6 * torch.arange(500, dtype=torch.float64) / 500)
    torch.testing.assert_close(matrix @ torch.sin(6 * x), expected, atol=1e-4, rtol=0)


def test_relative_buckets_of_t5():
    buckets = relative_buckets(100, 32, 64)
    assert buckets[50, 50] == 0
    assert buckets[50, 43:50].tolist() == [7, 6, 5, 4, 3, 2, 1]  # to the left: exact below 8
    assert buckets[50, 51:58].tolist() == [17, 18, 19, 20, 21, 22, 23]  # to the right: the upper half
    assert buckets[99, 0] == 15
    assert buckets[0, 99] == 31
    assert (buckets[50, 50:].diff() >= 0)[1:].all()


def test_classifier_bias_and_views():
    config = VideoConfig(
        num_layers=1, d_model=8, d_kv=4, d_ff=8, num_heads=2, temporal_patch_size=2, spatial_patch_size=4
    )
    model = Classifier(VideoBackbone(config), 11, labels="multi").eval().double()
    logits = torch.full((1, 11), model.classifier.bias[0].item())
    torch.testing.assert_close(model.probabilities(logits), torch.full((1, 11), 1 / 11))
    x = torch.rand(6, 4, 8, 8, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x, views=3), model(x).unflatten(0, (2, 3)).mean(1))
    with pytest.raises(ValueError, match="views: 6 rows are no multiple of 4"):
        model(x, views=4)


VIDEO = torch.zeros(1, 32, 64, 64, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (dict(video=VIDEO[..., :2]), "video: expected 5 dimensions with 3 channels last"),
        (dict(video=VIDEO[0]), "video: expected 5 dimensions"),
        (dict(video=VIDEO.long()), "video: expected uint8 or floating point"),
        (dict(video=VIDEO[:, :2]), "video: .* is smaller than one patch"),
        (dict(audio=torch.zeros(1, 100)), "audio: .* is smaller than one patch"),
        (dict(audio=torch.zeros(1, 5120, 1)), "audio: expected 2 dimensions"),
        (dict(text=torch.zeros(1, 3, 16)), "text: expected integer word ids"),
        (dict(text=torch.zeros(1, 1, 3, 16, dtype=torch.int64)), "text: expected"),
    ],
)
@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_errors_name_the_input(name, inputs, message):
    with pytest.raises(ValueError, match=message):
        VATT(tiny(name)).eval()(**inputs)


def test_configurations_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"loss\.aud_txt_weight: must be 0 with head\.kind 'fac'"):
        Pretraining(tiny(loss=LossConfig(aud_txt_weight=1.0)))
    with pytest.raises(ValueError, match="audio_input: the unified backbone reads waveforms"):
        VATT(tiny("vatt-ma-tiny", audio_input="spectrogram"))
    with pytest.raises(ValueError, match="one of them > 0"):
        ContrastiveLoss(LossConfig(vid_txt_weight=0, vid_aud_weight=0))
    with pytest.raises(ValueError, match=r"temperature: expected float from 0\.001 to 1000, got 0"):
        ContrastiveLoss(LossConfig(temperature=0))
    with pytest.raises(ValueError, match="modality: 'smell'"):
        UnifiedBackbone(tiny("vatt-ma-tiny").unified)("smell", VIDEO)


def test_initial_values_are_those_of_keras():
    torch.manual_seed(0)
    model = VideoBackbone(VideoConfig(num_layers=1, max_temporal_buckets=200))
    D, volume = 768, 4 * 16 * 16
    bound = (6 / (volume * 3 + volume * D)) ** 0.5
    assert model.tokens.weight.abs().max() <= bound
    assert model.tokens.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    attention = model.encoder.layers[0].attention
    assert attention.qkv_weight.std().item() == pytest.approx((2 / (D + 768)) ** 0.5, rel=0.01)
    table = model.tokens.positions.temporal
    assert table.abs().max() <= 2 * D**-0.5
    assert table.std().item() == pytest.approx(0.8796 * D**-0.5, rel=0.01)
    assert model.tokens.agg_token.std().item() == pytest.approx(D**-0.5, rel=0.15)
    words = TextBackbone(TextConfig(num_layers=1, vocab_size=1000)).embedding.weight
    assert words.abs().max() <= 0.05
    assert not words.requires_grad


def test_spectrogram_positions_are_transposed():
    config = SpectrogramConfig(
        num_layers=1, d_model=8, d_kv=4, d_ff=8, num_heads=2, max_temporal_buckets=2, max_spectoral_buckets=3
    )
    positions = SpectrogramBackbone(config).tokens.positions.double()
    rows = positions((2, 3))
    total = positions.temporal[1] + positions.spectoral[2]  # token 5: 5 mod 2, 5 div 2
    torch.testing.assert_close(rows[5], torch.nn.functional.layer_norm(total, (8,), eps=1e-6))
