"""Models as folders, and backbones out of them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vatt.clip import InputConfig
from vatt.inference import VATT, Classifier, load_pretrained, save_pretrained
from vatt.models import ClassifierConfig
from vatt.presets import CLASSIFIERS, classifier_preset, preset
from vatt.weights.folder import PretrainedError
from vatt.weights.restore import backbone_config, fit_positions, restore_backbone


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
    with pytest.raises(PretrainedError, match=f"{name} holds values that are not finite"):
        load_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(PretrainedError, match=r"model.safetensors: cannot be read"):
        load_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match=r"no such folder with a model.safetensors"):
        load_pretrained(tmp_path / "absent")


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
