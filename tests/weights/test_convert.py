"""Whole conversions of the reference checkpoints, against the recorded outputs; and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.golden.golden import REFERENCE, assert_close
from tests.weights.bundle_writer import write_bundle
from vatt.__main__ import main
from vatt.config import ConfigError, to_dict
from vatt.models import VATT, Classifier
from vatt.weights.folder import load_pretrained
from vatt.weights.tensorflow import Bundle, TensorFlowError
from vatt.weights.tensorflow.choose import account
from vatt.weights.tensorflow.config import official_config
from vatt.weights.tensorflow.convert import convert, fill
from vatt.weights.tensorflow.variables import variables

FOLDERS = sorted(path.name for path in REFERENCE.glob("tf_ckpt_*"))
CONFIGS = {name: json.loads((REFERENCE / name / "config.json").read_text()) for name in FOLDERS}
PRETRAINED = [name for name in FOLDERS if "head_config" in CONFIGS[name]["model_config"]]
FINETUNED = [name for name in FOLDERS if name not in PRETRAINED]
PROJECTED = next(name for name in FINETUNED if CONFIGS[name]["model_config"]["pre_projection"])
SMALL = next(name for name in FINETUNED if name != PROJECTED)


def config_of(folder):
    return str(REFERENCE / folder / "config.json")


def shape_overrides(folder):
    """The sizes of a fine-tuned reference model as overrides of a preset."""
    given, section = (
        CONFIGS[folder]["overrides"],
        "video" if CONFIGS[folder]["overrides"]["modality"] == "video" else "waveform",
    )
    named = {"temporal_patch_stride", "pre_projection", "post_projection", "d_post_proj"}
    return [f"{section}.{key}={json.dumps(value)}" for key, value in given["model"].items() if key not in named]


def model_arrays(folder):
    bundle = Bundle(REFERENCE / folder)
    return {key: bundle.read(key) for key in account(bundle.keys()).model.values()}


def assert_recorded_outputs(model, folder):
    with np.load(REFERENCE / folder / "expected.npz") as archive:
        inputs = {key[6:]: torch.from_numpy(archive[key]) for key in archive.files if key.startswith("input/")}
        outputs = {key[7:]: archive[key] for key in archive.files if key.startswith("output/")}
    assert outputs
    with torch.no_grad():
        if isinstance(model, VATT):
            actual = model(inputs["video"], inputs["audio"].squeeze(-1), inputs["text"].long())
        else:
            (x,) = inputs.values()
            x = x if x.ndim == 5 else x.squeeze(-1)
            logits = model(x)
            pooled = model.backbone(x)["features_pooled"]
            actual = {"logits": logits, "probabilities": model.probabilities(logits), "features_pooled": pooled}
    for key, value in outputs.items():
        assert_close(actual[key.removeprefix("bridge/")], value, name=key)


@pytest.mark.parametrize("folder", FOLDERS)
def test_converted_models_give_the_recorded_outputs(folder, tmp_path):
    convert(REFERENCE / folder, config_of(folder), tmp_path / "out")
    model = load_pretrained(tmp_path / "out")
    assert isinstance(model, VATT if folder in PRETRAINED else Classifier)
    assert model.config == official_config(CONFIGS[folder])
    assert_recorded_outputs(model, folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_key_is_accounted_for(folder, tmp_path):
    report = convert(REFERENCE / folder, config_of(folder), tmp_path / "out")
    keys = [one.key for one in report.converted] + report.slots + report.bookkeeping + report.unused
    assert sorted(keys) == sorted(v["name"] for v in json.loads((REFERENCE / folder / "variables.json").read_text()))
    with np.load(REFERENCE / folder / "expected.npz") as archive:
        assert {f"variable/{one.key}" for one in report.converted} == {k for k in archive.files if k[:9] == "variable/"}
    assert report.unused == []
    assert report.slots

    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert sum(written["counts"].values()) == len(keys)
    assert [one["key"] for one in written["converted"]] == [one.key for one in report.converted]
    state = load_pretrained(tmp_path / "out").state_dict()
    assert {one["tensor"] for one in written["converted"]} == state.keys()
    assert report.parameters == sum(
        np.prod(one.shape, dtype=int) for one in report.converted if "running" not in one.tensor
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        "conversion.json",
    }


def test_our_own_configuration_is_taken(tmp_path):
    config = replace(official_config(CONFIGS[PRETRAINED[0]]), name="mine")
    (tmp_path / "mine.json").write_text(json.dumps(to_dict(config)))
    convert(REFERENCE / PRETRAINED[0], str(tmp_path / "mine.json"), tmp_path / "out", ["loss.temperature=0.1"])
    model = load_pretrained(tmp_path / "out")
    assert (model.config.name, model.config.loss.temperature) == ("mine", 0.1)
    assert_recorded_outputs(model, PRETRAINED[0])


def test_a_named_classifier_reads_classes_and_projections_from_the_checkpoint(tmp_path):
    convert(REFERENCE / PROJECTED, "vit-base", tmp_path / "out", shape_overrides(PROJECTED))
    model = load_pretrained(tmp_path / "out")
    official = CONFIGS[PROJECTED]["model_config"]
    assert model.config.num_classes == official["num_classes"]
    assert (model.config.video.pre_projection, model.config.video.d_post_proj) == (True, official["d_post_proj"])
    assert_recorded_outputs(model, PROJECTED)


def test_several_shards_and_variables_of_no_known_kind(tmp_path):
    arrays = {**model_arrays(SMALL), "averages/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(2, np.float32)}
    write_bundle(tmp_path / "ckpt", arrays, shards=3)
    report = convert(tmp_path / "ckpt", config_of(SMALL), tmp_path / "out")
    assert report.unused == ["averages/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    assert len(report.files) == 4
    assert_recorded_outputs(load_pretrained(tmp_path / "out"), SMALL)


def refused(tmp_path, prefix, model, match, overrides=(), error=TensorFlowError):
    with pytest.raises(error, match=match):
        convert(prefix, model, tmp_path / "out", overrides)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_the_wrong_model_is_refused_with_both_shapes(tmp_path):
    bias = model_arrays(SMALL)["model/layer_with_weights-0/_ops/cls/bias/.ATTRIBUTES/VARIABLE_VALUE"]
    message = rf"_ops/cls/bias has shape \({bias.size},\), \w+ needs \({bias.size + 1},\)"
    refused(tmp_path, REFERENCE / SMALL, config_of(SMALL), message, [f"num_classes={bias.size + 1}"])
    section = "video" if CONFIGS[SMALL]["overrides"]["modality"] == "video" else "waveform"
    layers = CONFIGS[SMALL]["overrides"]["model"]["num_layers"]
    lacks, more = rf"the checkpoint lacks _base/tx/layers/{layers}/", rf"has no _base/tx/layers/{layers - 1}/"
    refused(tmp_path, REFERENCE / SMALL, config_of(SMALL), lacks, [f"{section}.num_layers={layers + 1}"])
    refused(tmp_path, REFERENCE / SMALL, config_of(SMALL), more, [f"{section}.num_layers={layers - 1}"])


def test_another_vocabulary_is_refused(tmp_path):
    folder = next(name for name in PRETRAINED if "text" in CONFIGS[name]["overrides"])
    text = CONFIGS[folder]["overrides"]["text"]
    words, width = text["vocab_size"], text["d_embedding"]
    message = rf"txt_backbone/embedding/embeddings has shape \({words}, {width}\), \w+ needs \(9, {width}\)"
    refused(tmp_path, REFERENCE / folder, config_of(folder), message, ["text.vocab_size=9"])


def test_another_kind_of_model_is_refused(tmp_path):
    for folder in FINETUNED:
        refused(
            tmp_path, REFERENCE / folder, "vatt-base", r"holds .* classifier .*; --model asks for a pretraining model"
        )
    for folder in PRETRAINED:
        refused(tmp_path, REFERENCE / folder, "wat-base", r"holds a .*pretraining model .*--model asks for an audio")
    write_bundle(tmp_path / "other", {"dense/kernel": np.zeros(3, np.float32)})
    refused(tmp_path, tmp_path / "other", "vatt-base", r"other\.index: holds no variable of a VATT model")
    refused(tmp_path, REFERENCE / FOLDERS[0], "vat-base", "unknown model 'vat-base'; did you mean", error=ConfigError)
    refused(tmp_path, REFERENCE / FOLDERS[0], "absent.json", r"absent\.json: cannot read", error=ConfigError)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value):
    arrays = model_arrays(SMALL)
    key = next(key for key in arrays if "mlp/wo/kernel" in key)
    arrays[key][1, 1] = value
    write_bundle(tmp_path / "ckpt", arrays)
    refused(tmp_path, tmp_path / "ckpt", config_of(SMALL), rf"ckpt: {key} holds 1 values that are not finite")


def test_weights_that_are_no_floats_are_refused(tmp_path):
    arrays = model_arrays(SMALL)
    key = next(key for key in arrays if "_ops/cls/bias" in key)
    arrays[key] = arrays[key].astype(np.int32)
    write_bundle(tmp_path / "ckpt", arrays)
    refused(tmp_path, tmp_path / "ckpt", config_of(SMALL), r"of a type that is not converted: _ops/cls/bias \(int32\)")


def test_a_tensor_that_no_variable_fills_is_named():
    """Weights left at random would be worse than an error."""
    bundle = Bundle(REFERENCE / SMALL)
    model = Classifier.from_config(official_config(CONFIGS[SMALL]))
    wanted = variables(model)
    wanted.pop("_base/tx/layers/0/mha/k/kernel")
    with pytest.raises(
        TensorFlowError, match=r"no variable fills backbone\.encoder\.layers\.0\.attention\.qkv_weight$"
    ):
        fill(model, bundle, account(bundle.keys()).model, wanted)


def test_damage_in_a_model_variable_leaves_nothing_behind(tmp_path):
    write_bundle(tmp_path / "ckpt", model_arrays(SMALL))
    data = tmp_path / "ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[-1] ^= 4
    data.write_bytes(content)
    refused(tmp_path, tmp_path / "ckpt", config_of(SMALL), r"ckpt\.data-00000-of-00001: the checksum of model/")


def test_damage_in_a_slot_does_not_matter(tmp_path):
    """Slots are never read."""
    for path in (REFERENCE / SMALL).iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    bundle = Bundle(tmp_path)
    slot = bundle.entry(account(bundle.keys()).slots[0])
    with bundle.data_file(slot.shard).open("r+b") as data:
        data.seek(slot.offset)
        data.write(b"\xff" * slot.size)
    convert(tmp_path, config_of(SMALL), tmp_path / "out")
    assert_recorded_outputs(load_pretrained(tmp_path / "out"), SMALL)


def test_what_stands_at_out_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    convert(REFERENCE / SMALL, config_of(SMALL), tmp_path / "out")  # an empty folder is taken
    before = (tmp_path / "out" / "config.json").stat().st_mtime_ns
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(TensorFlowError, match=f"{name}: exists and is not an empty folder"):
            convert(REFERENCE / SMALL, config_of(SMALL), tmp_path / name)
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == before


def test_a_write_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vatt.weights.tensorflow.convert.save_pretrained", full)
    refused(tmp_path, REFERENCE / SMALL, config_of(SMALL), "No space left", error=OSError)


def test_the_command(tmp_path, capsys):
    prefix, out = str(Bundle(REFERENCE / SMALL).prefix), str(tmp_path / "out")
    assert main(["convert", prefix, "--model", config_of(SMALL), "--out", out, "--set", "dropout=0.25"]) == 0
    printed = capsys.readouterr().out
    with np.load(REFERENCE / SMALL / "expected.npz") as archive:
        count = sum(key.startswith("variable/") for key in archive.files)
    assert f"{count} variables converted" in printed
    assert f"written to {out}" in printed
    assert load_pretrained(out).config.dropout == 0.25
    assert main(["convert", prefix, "--model", config_of(SMALL), "--out", out]) == 1
    assert capsys.readouterr().err.startswith(f"error: {out}: exists")
    assert main(["convert", prefix, "--model", "vit-base", "--out", str(tmp_path / "new"), "--set", "video.x=1"]) == 1
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
