"""The video ViT against video_vit*.npz."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden.golden import assert_close, assert_gradients, fill, load, loaded
from vatt.kernels import patch_embed
from vatt.models import VideoBackbone
from vatt.models.config import VideoConfig
from vatt.models.positions import resample


@pytest.fixture(scope="module")
def vit():
    golden = load("video_vit")
    return golden, loaded(VideoBackbone(fill(VideoConfig, golden.config)), golden)


def test_outputs(vit):
    golden, model = vit
    out = model(golden.tensor("video"))
    assert_close(out["features_pooled"], golden.outputs["aggregated"])
    expected = golden.outputs["predictions_3d"]
    assert_close(out["features"].reshape(expected.shape), expected)


def test_patch_projection(vit):
    golden, model = vit
    tokens = model.tokens
    embeddings = patch_embed(golden.tensor("video"), tokens.weight, tokens.bias, tokens.patch)
    assert_close(embeddings, golden.outputs["embeddings"])


def test_attention_weights(vit):
    golden, model = vit
    _, weights = model.encoder(model.tokens(golden.tensor("video")), return_weights=True)
    recorded = [name for name in golden.outputs if name.startswith("attention_weights/")]
    assert recorded
    for name in recorded:
        assert_close(weights[int(name.rpartition("/")[2])], golden.outputs[name], name=name)


@pytest.mark.parametrize("size", ["", "_small"])
@pytest.mark.parametrize("solve", ["", "float64spline/"])
def test_other_resolutions(size, solve):
    """README: "spline tables with N <= 5: 1e-5" is how far the float32 solve may be off."""
    golden = load("video_vit_interp")
    model = loaded(VideoBackbone(fill(VideoConfig, golden.config)), golden)
    video = golden.tensor(f"video{size}")
    out = model(video)
    tolerance = 1e-5 if solve else 2e-5
    assert_close(out["features_pooled"], golden.outputs[f"{solve}aggregated{size}"], tolerance)
    if not solve:
        expected = golden.outputs[f"predictions_3d{size}"]
        assert_close(out["features"].reshape(expected.shape), expected, tolerance)
    grid = model.tokens.grid(video)
    for axis, length in zip(model.tokens.positions.axes, grid, strict=True):
        expected = golden.outputs[f"{solve}expanded{size}/{axis}"]
        assert_close(resample(getattr(model.tokens.positions, axis), length), expected, tolerance, axis)


def test_drop_token():
    golden = load("video_vit_droptoken")
    config = fill(VideoConfig, golden.config)
    model = loaded(VideoBackbone(config), golden)
    video, permutation = golden.tensor("video"), golden.tensor("permutation")
    assert model.tokens.drop_token.kept == int(golden.outputs["kept"])
    assert_close(model(video)["features_pooled"], golden.outputs["inference_aggregated"])

    model.train()
    kept = permutation[: model.tokens.drop_token.kept]
    out = model(video, kept=kept)
    assert_close(out["features_pooled"], golden.outputs["aggregated"])
    assert_close(out["features"], golden.outputs["predictions"])
    target = (out["features_pooled"] * golden.tensor("r")).sum()
    # A sum of terms of either sign: its rounding is that of the terms, not of the sum.
    terms = float(np.abs(golden.outputs["aggregated"] * golden.inputs["r"]).sum())
    assert_close(target, golden.outputs["target"], name="target", atol=1e-6 * terms)
    target.backward()
    assert_gradients(model, golden)


def test_drop_token_draws_as_many_as_the_official_code():
    golden = load("video_vit_droptoken")
    model = loaded(VideoBackbone(fill(VideoConfig, golden.config)), golden).train()
    out = model(golden.tensor("video"), generator=torch.Generator().manual_seed(1))
    assert out["features"].shape == golden.outputs["predictions"].shape
