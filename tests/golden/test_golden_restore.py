"""Fine-tuning from a released modality-agnostic checkpoint: converted, loaded and restored as restored.npz says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.golden.golden import REFERENCE, assert_close
from vatt.inference import VATT
from vatt.models import Classifier
from vatt.weights.restore import backbone_config, restore_backbone
from vatt.weights.tensorflow.config import classifier_config
from vatt.weights.tensorflow.convert import convert
from vatt.weights.tensorflow.variables import variables

RESTORED = sorted(path.parent.name for path in REFERENCE.glob("tf_ckpt_*/restored.npz"))


def source_of(keys):
    """The checkpoint whose variables were restored."""
    for path in REFERENCE.glob("tf_ckpt_*/variables.json"):
        if keys <= {entry["name"] for entry in json.loads(path.read_text())}:
            return path.parent
    raise AssertionError("no reference checkpoint holds these variables")


@pytest.mark.parametrize("name", RESTORED)
def test_a_converted_checkpoint_restores_as_the_official_code_does(name, tmp_path):
    with np.load(REFERENCE / name / "restored.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    keys = json.loads(str(arrays["param_to_ckpt_key"]))
    source = source_of(set(keys.values()))
    convert(source / "ckpt-1", str(source / "config.json"), tmp_path / "model")
    pretrained = VATT.from_pretrained(tmp_path / "model")
    target = Classifier.from_config(classifier_config(json.loads((REFERENCE / name / "config.json").read_text())))
    modality = target.config.modality
    section = backbone_config(pretrained.config, modality)
    assert (section.pre_projection, section.post_projection) == (True, True)
    before = {key: value.clone() for key, value in target.classifier.state_dict().items()}
    assert restore_backbone(target, pretrained, modality)  # some tables were resampled
    assert len(keys) == len(variables(target.backbone))
    assert all(torch.equal(before[key], value) for key, value in target.classifier.state_dict().items())
    with np.load(REFERENCE / name / "expected.npz") as archive, torch.no_grad():
        (x,) = (torch.from_numpy(archive[key]) for key in archive.files if key.startswith("input/"))
        pooled = target.eval().backbone(x if x.ndim == 5 else x.squeeze(-1))["features_pooled"]
    assert_close(pooled, arrays["output/features_pooled"], 2e-5)
