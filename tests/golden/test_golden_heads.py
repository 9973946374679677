"""The heads against head_*.npz: inference, training, moving statistics, gradients."""

from __future__ import annotations

import pytest

from tests.golden.golden import GRADIENT, assert_close, assert_gradients, load, loaded
from vatt.models.config import HeadConfig
from vatt.models.heads import build_head
from vatt.weights.tensorflow.variables import variables

MODALITIES = ("video", "audio", "text")


def config(official, sync) -> HeadConfig:
    bn = official["bn_config"]
    assert bn["scale"]
    return HeadConfig(
        kind="joint" if "joint" in official["name"] else "fac",
        d_va=official["vid_to_aud_txt_kwargs"]["d_model"],
        d_vat=official["txt_to_vid_aud_kwargs"]["d_model"],
        bn_momentum=bn["momentum"],
        bn_epsilon=bn["epsilon"],
        sync_bn=sync,
    )


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("name", ["head_fac", "head_joint"])
def test_head(name, sync):
    """Recorded with ordinary BN; synchronised BN on one rank is the same function."""
    golden = load(name)
    widths = [golden.inputs[modality].shape[1] for modality in MODALITIES]
    head = loaded(build_head(config(golden.config, sync), *widths), golden)
    features = {modality: golden.tensor(modality) for modality in MODALITIES}

    def compare(phase):
        out = head(features)
        recorded = [key for key in golden.outputs if key.startswith(f"{phase}/")]
        assert recorded
        for key in recorded:
            assert_close(out[key.removeprefix(f"{phase}/")], golden.outputs[key], name=key)
        return out

    compare("infer")
    head.train()
    out = compare("train")
    sum((out[key.removeprefix("r/")] * golden.tensor(key)).sum() for key in golden.inputs if key[:2] == "r/").backward()
    assert_gradients(head, golden, tolerance=GRADIENT)
    statistics = {key.removeprefix("after_train/"): v for key, v in golden.outputs.items() if key[:6] == "after_"}
    ours = variables(head)
    for key, value in statistics.items():
        assert_close(ours[golden.paths[key]].tensor, value, name=key)
    head.eval()
    compare("infer_after_train")
