"""Official configurations to ours: sizes by name, and nothing dropped silently."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from tests.golden.golden import REFERENCE
from vatt.clip import InputConfig
from vatt.config import ConfigError
from vatt.models.config import ClassifierConfig, TextConfig, UnifiedConfig, VATTConfig, VideoConfig
from vatt.presets import SIZES, preset
from vatt.weights.tensorflow import TensorFlowError
from vatt.weights.tensorflow.config import fill, official_config, text_config

CONFIGS = {path.parent.name: json.loads(path.read_text()) for path in REFERENCE.glob("tf_ckpt_*/config.json")}
PRETRAINED = next(
    config for config in CONFIGS.values() if "video_backbone" in config["model_config"].get("backbone_config", ())
)
CLASSIFIER = next(config for config in CONFIGS.values() if config["model_config"].get("name", "").startswith("vit"))


def named(video, audio="wat_base", text="t5_small"):
    """The official configuration as its classes define it, with the backbones named and nothing else changed."""
    model = {key: PRETRAINED["model_config"][key] for key in ("loss_config", "head_config")}
    bridge = dict(model["head_config"]["bridge"][0])
    for key, width in (("vid_to_aud_txt", 512), ("aud_to_vid_txt", 512), ("txt_to_vid_aud", 256)):
        bridge[f"{key}_kwargs"] = {"d_model": width}
    backbones = {"video_backbone": video, "audio_backbone": audio, "text_backbone": text}
    return {"model_config": {**model, "head_config": {"bridge": [bridge]}, "backbone_config": backbones}}


@pytest.mark.parametrize("size", ["base", "medium", "large"])
def test_names_give_the_sizes_of_our_presets(size):
    config = official_config(named(f"vit_{size}"))
    as_is = InputConfig(audio_level="as_is")
    assert config == replace(preset(f"vatt-{size}"), name="vatt", input=as_is)
    unified = named("")
    unified["model_config"]["backbone_config"] = {"unified_backbone": f"ut_{size}"}
    assert official_config(unified) == replace(preset(f"vatt-ma-{size}"), name="vatt", input=as_is)


def test_the_official_position_dropout_stays():
    config = official_config(PRETRAINED)
    assert isinstance(config, VATTConfig)
    assert {s.position_dropout_rate for s in (config.video, config.waveform, config.text)} == {0.1}


@pytest.mark.parametrize("folder", sorted(CONFIGS))
def test_reference_configurations(folder):
    official = CONFIGS[folder]
    config, given = official_config(official), official["overrides"]
    if isinstance(config, ClassifierConfig):
        section = config.video if given["modality"] == "video" else config.waveform
        assert (config.modality, config.num_classes) == (given["modality"], given["num_classes"])
        assert config.labels == ("single" if config.modality == "video" else "multi")
        assert config.dropout == official["model_config"]["cls_dropout_rate"]
        parts = {"model": section}
    else:
        assert (config.head.d_va, config.head.d_vat) == (given["head"]["d_va"], given["head"]["d_vat"])
        parts = {"video": config.video, "audio": config.waveform, "text": config.text, "unified": config.unified}
    fields = [(part, key) for part in parts if part in given for key in given[part] if hasattr(parts[part], key)]
    assert len(fields) > 5
    assert all(getattr(parts[part], key) == given[part][key] for part, key in fields)
    shapes = official["input_shapes"]
    if "audio" in shapes:
        assert config.input.samples == shapes["audio"][1]
    if "images" in shapes or "video" in shapes:
        assert shapes.get("images", shapes.get("video"))[1:3] == [config.input.frames, config.input.size]


def test_the_clip_follows_from_the_shapes():
    official = {**PRETRAINED, "input_shapes": {"video": [None, 32, 224, 224, 3], "audio": [None, 153600, 1]}}
    official["overrides"] = {"sample_rate": 48000, "max_num_words": 16}
    assert official_config(official).input == InputConfig(audio_level="as_is")
    official["input_shapes"] = {"video": [None, 32, 224, 112, 3]}
    with pytest.raises(TensorFlowError, match="frames of 224 x 112 cannot be honoured"):
        official_config(official)


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (VideoConfig, {"use_masking": True}, "VideoConfig: use_masking=True cannot be honoured; only False"),
        (VideoConfig, {"activation": "relu"}, "activation='relu' cannot be honoured; only 'gelu'"),
        (VideoConfig, {"freeze_backbone": True}, "freeze_backbone=True cannot be honoured"),
        (VideoConfig, {"new_field": 3}, "VideoConfig: new_field=3 cannot be honoured; no such field is known"),
        (VideoConfig, {"temporal_patch_stride": 2}, "temporal_patch_stride=2 cannot be honoured; only 4"),
        (UnifiedConfig, {"modality": "video"}, "modality='video' cannot be honoured"),
        (TextConfig, {"d_pre_proj": 7}, "d_pre_proj=7 cannot be honoured; only 512"),
        (TextConfig, {"use_agg_token": False}, "use_agg_token=False cannot be honoured; only True"),
    ],
)
def test_what_cannot_be_honoured_is_named(cls, fields, message):
    with pytest.raises(TensorFlowError, match=message):
        fill(cls, fields)


def test_a_value_of_the_wrong_type_is_named():
    with pytest.raises(ConfigError, match="d_model: expected int from 1 to 16,384, got 'wide'"):
        fill(VideoConfig, {"d_model": "wide"})


def test_text_models_by_name():
    assert text_config({"name": "t5_base"}).num_layers == SIZES["base"]["num_layers"]
    assert [text_config({"name": name}).kind for name in ("bert_base", "bert_small")] == ["bert", "bert_small"]
    linear = text_config({"name": "linear_lm", "is_transformer": False, "activation": None})
    assert (linear.kind, linear.d_model) == ("linear", 2048)
    with pytest.raises(TensorFlowError, match="'gpt' is none of t5"):
        text_config({"name": "gpt"})


def change(config, path, value):
    changed = copy.deepcopy(config)
    inner = changed["model_config"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("backbone_config", "video_backbone"), "s3d", "video backbone 's3d' cannot be honoured"),
        (("backbone_config", "video_backbone"), "i3d", r"audio backbone 'wat_.*' .* one of resnet2d_\*"),
        (("backbone_config", "audio_backbone"), "resnet2d_50", r"audio backbone 'resnet2d_50' .* wat_\*, spt_\*"),
        (("loss_config", "bridge"), [], "loss_config.bridge: 0 entries"),
        (("loss_config", "bridge", 0, "loss_weight"), 2.0, "loss_weight=2.0 cannot be honoured; only 1"),
        (("loss_config", "bridge", 0, "name"), "triplet", "name='triplet' cannot be honoured; only asymmetric_nce"),
        (("head_config", "bridge", 0, "name"), "attention", "name='attention' cannot be honoured; only mlp_fac"),
        (("head_config", "bridge", 0, "name"), "mlp_joint", "these spaces must be of one size"),
        (("head_config", "bridge", 0, "bn_config", "scale"), False, "scale=False cannot be honoured"),
        (("head_config", "bridge"), [{}], "lacks a part or has another layout: KeyError"),
        (("head_config", "bridge"), [], "head_config.bridge: 0 entries cannot be honoured; exactly one"),
        (("backbone_config",), [1, 2], "lacks a part or has another layout: TypeError"),
    ],
)
def test_parts_that_cannot_be_honoured(path, value, message):
    with pytest.raises(TensorFlowError, match=message):
        official_config(change(PRETRAINED, path, value))


def test_a_spectrogram_backbone_and_a_joint_head():
    official = change(PRETRAINED, ("head_config", "bridge", 0, "name"), "mlp_joint")
    official = change(
        official,
        ("head_config", "bridge", 0, "txt_to_vid_aud_kwargs", "d_model"),
        PRETRAINED["overrides"]["head"]["d_va"],
    )
    official = change(official, ("backbone_config", "audio_backbone"), "spt_base")
    official = change(official, ("backbone_config", "audio_model_kwargs"), {"max_spectoral_buckets": 8})
    config = official_config(official)
    assert (config.head.kind, config.audio_input, config.spectrogram.max_spectoral_buckets) == (
        "joint",
        "spectrogram",
        8,
    )


def test_the_norm_over_replicas_fixes_the_momentum():
    slow = change(PRETRAINED, ("head_config", "bridge", 0, "bn_config", "momentum"), 0.99)
    alone = change(slow, ("head_config", "bridge", 0, "use_xreplica_bn"), False)
    assert (official_config(slow).head.bn_momentum, official_config(slow).head.sync_bn) == (0.9, True)
    assert (official_config(alone).head.bn_momentum, official_config(alone).head.sync_bn) == (0.99, False)


def test_only_transformers_of_video_and_sound_are_classifiers():
    for name in ("i3d", "spt_base"):
        with pytest.raises(TensorFlowError, match=f"'{name}' cannot be honoured; classifiers are"):
            official_config(change(CLASSIFIER, ("name",), name))
