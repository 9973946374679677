"""Models as folders, and backbones out of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.file_operations import full_at, killed_at
from vatt.clip import InputConfig
from vatt.inference import VATT, Classifier, load_pretrained, save_pretrained
from vatt.models import ClassifierConfig
from vatt.presets import CLASSIFIERS, classifier_preset, preset
from vatt.weights.folder import PretrainedError, export_model, model_folder, read_config
from vatt.weights.restore import backbone_config, fit_positions, restore_backbone
from vatt.weights.tensors import TensorFile, Tensors


def small(name="vatt-tiny"):
    config = preset(name)
    config.text.vocab_size = config.unified.txt_vocab_size = 20
    for section in (config.video, config.waveform, config.text, config.unified):
        section.num_layers, section.d_model, section.d_kv, section.d_ff, section.num_heads = 1, 16, 8, 32, 2
    return config


def classifier_of(config, modality, spec=None):
    made = ClassifierConfig(name="c", modality=modality, num_classes=3, input=spec or config.input)
    section = backbone_config(config, modality)
    fit_positions(section, made.input)
    setattr(made, "video" if modality == "video" else "waveform", section)
    return Classifier.from_config(made)


def inputs(spec, modality):
    torch.manual_seed(0)
    if modality == "video":
        return torch.rand(2, spec.frames, spec.size, spec.size, 3) * 2 - 1
    return torch.rand(2, spec.samples) * 2 - 1


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_round_trip(tmp_path, name):
    model = VATT(small(name)).eval()
    save_pretrained(model, tmp_path / "m")
    again = VATT.from_pretrained(tmp_path / "m")
    assert not again.training
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    with pytest.raises(PretrainedError, match="holds a VATT, which has no classes"):
        Classifier.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_restored_backbone_gives_the_same_features(name, modality):
    config = small(name)
    source = VATT(config).eval().double()
    target = classifier_of(config, modality).eval().double()
    before = target.classifier.weight.clone()
    assert restore_backbone(target, source, modality) == []
    x = inputs(config.input, modality).double()  # float64: both are equal on any CPU
    with torch.no_grad():
        wanted = source(**{modality: x})[f"{modality}/features_pooled"]
        assert torch.allclose(target.backbone(target.at_level(x))["features_pooled"], wanted, atol=1e-6)
    assert torch.equal(target.classifier.weight, before)


def test_tables_of_another_input_are_resampled_as_at_run_time():
    config = small()
    source = VATT(config).eval().double()
    spec = InputConfig(frames=16, fps=5, size=96)
    target = classifier_of(config, "video", spec).eval().double()
    names = restore_backbone(target, source, "video")
    assert names == ["tokens.positions.temporal", "tokens.positions.vertical", "tokens.positions.horizontal"]
    x = inputs(spec, "video").double()
    with torch.no_grad():
        wanted = source.video(x)["features_pooled"]
        assert torch.allclose(target.backbone(x)["features_pooled"], wanted, atol=1e-5)


def test_what_does_not_fit_is_refused_with_both_shapes(tmp_path):
    config = small()
    source = VATT(config)
    wide = small()
    wide.video.d_ff = 48
    with pytest.raises(PretrainedError, match=r"shape \(32, 16\), this model: \(48, 16\)"):
        restore_backbone(classifier_of(wide, "video"), source, "video")
    save_pretrained(source, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["video"]["d_ff"] = 48
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(PretrainedError, match=r"model.safetensors: video.* has shape .*needed: "):
        load_pretrained(tmp_path)
    values["video"]["d_f"] = 48
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(PretrainedError, match=r"config.json: unknown configuration key 'video.d_f'"):
        load_pretrained(tmp_path)


def test_weights_that_are_not_finite_or_not_whole_are_refused(tmp_path):
    model = VATT(small())
    save_pretrained(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "video.tokens.weight"
    weights[name][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(PretrainedError, match=f"model.safetensors: {name} holds values that are not finite \\(1 of "):
        load_pretrained(tmp_path)
    weights[name][0, 0] = 0.0
    save_file(weights, tmp_path / "model.safetensors")  # by another program: without a checksum
    load_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(PretrainedError, match=r"model.safetensors: cannot be read"):
        load_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match=r"no such folder with a model.safetensors"):
        load_pretrained(tmp_path / "absent")


def test_damaged_weights_are_refused(tmp_path):
    """Though they are finite and their file is one of safetensors."""
    save_pretrained(classifier_of(small(), "video"), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    assert len(load_file(file)) > 10
    for place in (len(whole) - 1, len(whole) // 2):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PretrainedError, match=r"model.safetensors: is damaged: its content differs from its check"):
            load_pretrained(tmp_path)


def test_a_model_that_is_not_finite_is_not_written(tmp_path):
    model = classifier_of(small(), "video")
    save_pretrained(model, tmp_path / "m")
    before = load_pretrained(tmp_path / "m").state_dict()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("inf")
    with pytest.raises(PretrainedError, match=r"model.safetensors: not written: classifier.weight holds values"):
        save_pretrained(model, tmp_path / "m")
    with pytest.raises(PretrainedError, match=r"model.safetensors: not written: classifier.weight holds values"):
        export_model(tmp_path / "m", model.config, Tensors.of(model.state_dict()))
    after = load_pretrained(tmp_path / "m").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {path.name for path in tmp_path.rglob("*")} == {"m", "config.json", "model.safetensors"}


def spoilt(state, value):
    """As state, with that value in all of its tensors."""
    return {name: torch.full_like(x, value) for name, x in state.items()}


@pytest.mark.parametrize("way", ["save", "export"])
def test_a_kill_or_a_full_disk_at_any_file_operation_leaves_a_whole_model(tmp_path, monkeypatch, way):
    """The former or the new one; and of another model's folder, none at worst."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    model = classifier_of(small(), "video")
    state = model.classifier.state_dict()
    other = replace(model.config, name="other")

    def write(folder, value, config=model.config):
        if way == "export":
            export_model(folder, config, Tensors.of(spoilt(state, value)))
        else:
            kept, model.config = model.config, config
            try:
                save_pretrained(model, folder, spoilt(state, value))
            finally:
                model.config = kept

    def found(folder):
        """The name of the model and the value in its tensors."""
        weights = TensorFile(folder / "model.safetensors")
        values = {value for tensor in weights.values() for value in tensor.unique().tolist()}
        assert weights.keys() == state.keys()
        assert len(values) == 1
        return read_config(folder).name, values.pop()

    for config in (model.config, other):
        seen = set()
        for number in count():
            folder = tmp_path / f"{config.name}{number}"
            write(folder, 1.0)
            if not killed_at(number, lambda folder=folder, config=config: write(folder, 2.0, config)):
                break
            none = way == "save" and config is other and not (folder / "model.safetensors").is_file()
            seen.add(None if none else found(folder))
            write(folder, 3.0, config)
            assert found(folder) == (config.name, 3.0)
            assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        assert {("c", 1.0), (config.name, 2.0)} - {found(folder)} <= seen
        assert seen - {None} <= {("c", 1.0), (config.name, 2.0)}
    for number in count():
        folder = tmp_path / f"full{number}"
        write(folder, 1.0)
        kind = PretrainedError if way == "export" else OSError
        error = full_at(number, lambda folder=folder: write(folder, 2.0), kind)
        if error is None:
            break
        assert "No space left on device" in str(error)
        assert found(folder)[1] in ((1.0,) if number < 5 else (1.0, 2.0))


def test_files_of_a_model_have_the_modes_of_the_umask(tmp_path):
    save_pretrained(classifier_of(small(), "video"), tmp_path / "m")
    usual = tmp_path / "usual"
    usual.touch()
    assert {file.stat().st_mode for file in (tmp_path / "m").iterdir()} == {usual.stat().st_mode}


def test_classifier_round_trip_and_presets(tmp_path):
    model = classifier_of(small(), "audio")
    save_pretrained(model, tmp_path / "run" / "model")
    again = Classifier.from_pretrained(tmp_path / "run")
    assert again.config == model.config
    assert not again.training
    for name in CLASSIFIERS:
        config = classifier_preset(name)
        section = backbone_config(config, config.modality)
        fit_positions(section, config.input)
        assert section == config.backbone  # the tables fit the input of the recipe


def test_a_run_that_has_not_ended_is_told_how_to_end_it(tmp_path):
    for step in (30, 120):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    with pytest.raises(PretrainedError, match=r"the run has not ended, .* --resume; with --steps 120 beside, it ends"):
        read_config(model_folder(tmp_path))
