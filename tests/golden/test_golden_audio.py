"""The audio backbones against audio_wat.npz and audio_spt.npz."""

from __future__ import annotations

import pytest

from tests.golden.golden import assert_close, assert_gradients, fill, load, loaded
from vatt.kernels import patch_embed
from vatt.models import SpectrogramBackbone, WaveformBackbone
from vatt.models.config import SpectrogramConfig, WaveformConfig
from vatt.models.positions import resample

CASES = {
    "audio_wat": ("audio", "predictions_1d", WaveformBackbone, WaveformConfig),
    "audio_spt": ("spectrogram", "predictions_2d", SpectrogramBackbone, SpectrogramConfig),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    name, grid, backbone, config = CASES[request.param]
    golden = load(request.param)
    return golden, loaded(backbone(fill(config, golden.config)), golden), name, grid


def test_outputs(case):
    golden, model, name, grid = case
    x = golden.tensor(name).squeeze(-1)
    out = model(x)
    assert_close(out["features_pooled"], golden.outputs["aggregated"])
    assert_close(out["features"].reshape(golden.outputs[grid].shape), golden.outputs[grid])
    tokens = model.tokens
    assert_close(patch_embed(x, tokens.weight, tokens.bias, tokens.patch), golden.outputs["embeddings"])


def test_attention_weights(case):
    golden, model, name, _ = case
    _, weights = model.encoder(model.tokens(golden.tensor(name).squeeze(-1)), return_weights=True)
    recorded = [key for key in golden.outputs if key.startswith("attention_weights/")]
    assert recorded
    for key in recorded:
        assert_close(weights[int(key.rpartition("/")[2])], golden.outputs[key], name=key)


def test_gradients(case):
    golden, model, name, _ = case
    model.zero_grad()
    (model(golden.tensor(name).squeeze(-1))["features_pooled"] * golden.tensor("r")).sum().backward()
    assert_gradients(model, golden)


def test_another_length():
    """Against the float64 spline: the float32 one "carries noise" that grows with the buckets (README)."""
    golden = load("audio_wat")
    model = loaded(WaveformBackbone(fill(WaveformConfig, golden.config)), golden)
    audio = golden.tensor("audio_long").squeeze(-1)
    out = model(audio)
    exact = {key.removeprefix("float64spline/"): v for key, v in golden.outputs.items() if key.startswith("float64")}
    (length,) = model.tokens.grid(audio)
    assert_close(resample(model.tokens.positions.temporal, length), exact["expanded_long/temporal"])
    assert_close(out["features_pooled"], exact["aggregated_long"])
    assert_close(out["features"], exact["predictions_1d_long"])
