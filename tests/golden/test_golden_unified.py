"""The modality-agnostic backbone against unified_ut.npz."""

from __future__ import annotations

import pytest

from tests.golden.golden import assert_close, fill, load, loaded
from vatt.models import UnifiedBackbone
from vatt.models.config import UnifiedConfig


@pytest.mark.parametrize(("modality", "name"), [("video", "video"), ("audio", "audio"), ("text", "word_ids")])
def test_outputs(modality, name):
    golden = load("unified_ut")
    model = loaded(UnifiedBackbone(fill(UnifiedConfig, golden.config)), golden)
    x = golden.tensor(name)
    out = model(modality, x.squeeze(-1) if modality == "audio" else x)
    assert_close(out["features_pooled"], golden.outputs[f"{modality}/features_pooled"])
    expected = golden.outputs[f"{modality}/features"]
    assert_close(out["features"].reshape(expected.shape), expected)
