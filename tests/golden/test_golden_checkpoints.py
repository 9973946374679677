"""The networks of tf_ckpt_*/, from the variables stored in expected.npz."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from tests.golden.golden import REFERENCE, assert_close, fill, vatt_config
from vatt.models import VATT, Classifier, VideoBackbone, WaveformBackbone
from vatt.models.config import VideoConfig, WaveformConfig
from vatt.weights.tensorflow import TensorFlowError
from vatt.weights.tensorflow.variables import for_backbone, from_checkpoint, load_variables, variables

FOLDERS = sorted(path.name for path in REFERENCE.glob("tf_ckpt_*"))
PRETRAINED = [name for name in FOLDERS if '"head_config"' in (REFERENCE / name / "config.json").read_text()]
FINETUNED = [name for name in FOLDERS if name not in PRETRAINED]
RESTORED = [name for name in FOLDERS if (REFERENCE / name / "restored.npz").exists()]


@cache
def read(folder):
    """Configuration, arrays of expected.npz, and the stored variables by path."""
    config = json.loads((REFERENCE / folder / "config.json").read_text())
    with np.load(REFERENCE / folder / "expected.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    stored = {key.removeprefix("variable/"): v for key, v in arrays.items() if key.startswith("variable/")}
    return config, arrays, from_checkpoint(stored)


def tensor(array):
    value = torch.from_numpy(array.copy())
    return value if value.is_floating_point() else value.long()


def only_input(arrays):
    """The one input of a fine-tuned network; audio without its channel axis."""
    (x,) = (tensor(arrays[key]) for key in arrays if key.startswith("input/"))
    return x if x.ndim == 5 else x.squeeze(-1)


def pretraining_model(folder):
    config, _, _ = read(folder)
    loss = dict(config["model_config"]["loss_config"]["bridge"][0])
    kind = loss.pop("name").removesuffix("_nce")
    assert loss.pop("loss_weight") == 1
    width = {"i3d_width_divisor": config.get("i3d_width_divisor", 1)}
    return VATT(vatt_config(config["overrides"] | width, config["model_arch"], dict(loss, kind=kind)))


def classifier(folder):
    config, _, _ = read(folder)
    official = config["model_config"]
    if config["overrides"]["modality"] == "video":
        backbone, labels = VideoBackbone(fill(VideoConfig, official)), "single"
    else:
        backbone, labels = WaveformBackbone(fill(WaveformConfig, official)), "multi"
    return Classifier(backbone, official["num_classes"], official["cls_dropout_rate"], labels)


@pytest.mark.parametrize("folder", PRETRAINED)
def test_pretrained(folder):
    _, arrays, stored = read(folder)
    model = pretraining_model(folder)
    load_variables(model, stored)
    audio = tensor(arrays["input/audio"]).squeeze(-1)
    with torch.no_grad():
        out = model.eval()(tensor(arrays["input/video"]), audio, tensor(arrays["input/text"]))
    recorded = {key.removeprefix("output/"): v for key, v in arrays.items() if key.startswith("output/")}
    assert recorded
    for key, value in recorded.items():
        assert_close(out[key.removeprefix("bridge/")], value, name=key)


@pytest.mark.parametrize("folder", FINETUNED)
def test_finetuned(folder):
    _, arrays, stored = read(folder)
    model = classifier(folder)
    load_variables(model, stored)
    x = only_input(arrays)
    with torch.no_grad():
        logits = model.eval()(x)
        assert_close(model.backbone(x)["features_pooled"], arrays["output/features_pooled"])
    assert_close(logits, arrays["output/logits"])
    assert_close(model.probabilities(logits), arrays["output/probabilities"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_stored_model_variable_is_ours(folder):
    """The list of variables.json, less slots and counters, is exactly what our module asks for."""
    listed = json.loads((REFERENCE / folder / "variables.json").read_text())
    shapes = {path: tuple(shape) for path, shape in from_checkpoint({v["name"]: v["shape"] for v in listed}).items()}
    model = pretraining_model(folder) if folder in PRETRAINED else classifier(folder)
    assert {path: variable.shape for path, variable in variables(model).items()} == shapes


@pytest.mark.parametrize("folder", RESTORED)
def test_backbone_restored_from_pretraining(folder):
    """Position tables of another size are resampled; "spline tables with N <= 5: 1e-5" is the float32 solve's error."""
    with np.load(REFERENCE / folder / "restored.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    keys, skipped = json.loads(str(arrays["param_to_ckpt_key"])), json.loads(str(arrays["skipped"]))
    paths = from_checkpoint(dict.fromkeys(keys.values())).keys()
    (source,) = [name for name in PRETRAINED if paths <= read(name)[2].keys()]
    _, _, stored = read(source)
    model = classifier(folder)
    before = {key: value.clone() for key, value in model.classifier.state_dict().items()}
    modality = read(folder)[0]["overrides"]["modality"]
    load_variables(model.backbone, for_backbone(stored, modality), resample_positions=True)

    ours = variables(model.backbone)
    for name, key in keys.items():
        (path,) = for_backbone(from_checkpoint({key: None}), modality)
        assert_close(ours[path].to_tensorflow(ours[path].tensor), arrays[f"param/{name}"], 2e-5, name)
    assert len(keys) == len(ours)
    assert all("classification" in name for name in skipped)
    assert all(torch.equal(before[key], value) for key, value in model.classifier.state_dict().items())
    with np.load(REFERENCE / folder / "expected.npz") as archive, torch.no_grad():
        out = model.eval().backbone(only_input(archive))
    assert_close(out["features_pooled"], arrays["output/features_pooled"], 2e-5)


def test_tables_of_another_size_are_refused_unless_resampled():
    folder = FINETUNED[0]
    stored = dict(read(folder)[2])
    table = next(path for path in stored if path.endswith("position_embeddings/embeddings"))
    stored[table] = np.concatenate([stored[table], stored[table]])
    model = classifier(folder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(TensorFlowError, match=rf"{table}: official shape \(.*needs \("):
        load_variables(model, stored)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_missing_and_unused_variables_are_named():
    folder = FINETUNED[0]
    stored = dict(read(folder)[2])
    stored.pop("_ops/cls/bias")
    stored["stray/kernel"] = np.zeros(1)
    with pytest.raises(TensorFlowError, match=r"missing variables: \['_ops/cls/bias'\]; unused variables: \['stray"):
        load_variables(classifier(folder), stored)
