"""Every setting of a model, at values that it takes: a step works, or the model is refused before a run begins."""

from __future__ import annotations

import json

import pytest
import torch

from vatt.config import ConfigError, describe_fields, override
from vatt.models.config import VATTConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

SMALL = [
    *["input.size=32", "input.frames=8", "input.fps=2.5", "input.sample_rate=2000", "input.words=6"],
    *["input.candidates=2", "text.vocab_size=30", "unified.txt_vocab_size=30", "head.d_va=16", "head.d_vat=8"],
    *[f"video.max_{axis}_buckets=2" for axis in ("temporal", "vertical", "horizontal")],
    *["waveform.temporal_patch_size=256", "waveform.max_temporal_buckets=25", "spectrogram.max_spectoral_buckets=2"],
    *["unified.max_vid_temporal_buckets=2", "unified.max_vid_spatial_buckets=2", "unified.max_aud_temporal_buckets=25"],
    "unified.aud_temporal_patch_size=256",
] + [
    f"{section}.{name}={value}"
    for section in ("video", "waveform", "spectrogram", "text", "unified")
    for name, value in dict(num_layers=1, d_model=16, d_kv=8, d_ff=32, num_heads=2).items()
]
KINDS = {
    "separate": ("vatt-tiny", [], ("unified", "spectrogram")),
    "unified": ("vatt-ma-tiny", [], ("video", "waveform", "spectrogram", "text", "input", "head", "loss")),
    "spectrogram": ("vatt-tiny", ["audio_input=spectrogram"], ("unified", "video", "waveform", "text", "head", "loss")),
}
# Values of several settings, and what is said of them where they do not go together.
TOGETHER = [
    (["text.kind=bert", "input.words=40"], None),
    (["text.kind=bert_small", "input.words=40"], None),
    (["text.kind=linear"], None),
    (["head.kind=joint", "loss.aud_txt_weight=1"], None),
    (["video.pre_projection=true", "video.post_projection=true"], None),
    (["input.size=16"], "video: DropToken keeps 4 patches"),
    (["input.size=8"], "video: .* is smaller than one patch"),
    (["input.frames=2"], "video: .* is smaller than one patch"),
    (["input.sample_rate=10"], "audio: .* is smaller than one patch"),
    (["loss.vid_txt_weight=0", "loss.vid_aud_weight=0"], "one of them > 0"),
    (["video.patch_sampling_rate=0.001"], "keeps no patch"),
    (["text.max_relative_distance=8"], "max_relative_distance: 8 must be above 8"),
]


def small(kind):
    name, words, _ = KINDS[kind]
    return override(preset(name), [*SMALL, *words])


def other_value(field, value):
    """One that the setting takes, too."""
    if field.type == "bool":
        return not value
    if field.type.startswith('"'):
        return next(option for option in map(json.loads, field.type.split(" | ")) if option != value)
    if field.type == "str":
        return "other"
    return 2 * value if field.type == "int" else value / 2 or 0.3


def begin(config):
    """What a run does before it makes its folder; ValueError: it is refused."""
    with torch.device("meta"):
        module = Pretraining(config)
    module.check_input()


def step(config):
    """Forward and backward pass of two clips."""
    torch.manual_seed(0)
    module = Pretraining(config).train()
    spec = config.input
    batch = {
        "video": torch.randint(0, 256, (2, spec.frames, spec.size, spec.size, 3), dtype=torch.uint8),
        "audio": torch.rand(2, spec.samples) - 0.5,
        "text": torch.randint(1, 15, (2, spec.candidates, spec.words)),
    }
    loss = module(batch, seed=1)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad.isfinite().all() for value in module.parameters() if value.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_a_model_works_or_is_refused_at_the_start(kind):
    config, refused, tried = small(kind), {}, 0
    step(config)
    for field in describe_fields(VATTConfig):
        if field.type == "section" or field.key.partition(".")[0] in KINDS[kind][2]:
            continue
        value = config
        for part in field.key.split("."):
            value = getattr(value, part)
        tried += 1
        try:
            changed = override(config, [f"{field.key}={json.dumps(other_value(field, value))}"])
            begin(changed)
        except ValueError as error:
            refused[field.key] = str(error)
            continue
        try:
            step(changed)
        except Exception as error:
            raise AssertionError(f"{field.key}={other_value(field, value)!r}: {error}") from error
    assert tried > 20
    allowed = {"loss.aud_txt_weight", "audio_input", "backbone", "video.spatial_patch_size"}
    allowed |= {"unified.vid_spatial_patch_size", "unified.max_vid_spatial_buckets", "input.frames", "input.fps"}
    others = ("spectrogram.", "i3d.", "resnet.")  # sections of other models
    assert refused.keys() <= allowed | {key for key in refused if key.startswith(others)}
    assert all(
        key.rpartition(".")[2] in text or "DropToken" in text or "spectrogram" in text for key, text in refused.items()
    )


@pytest.mark.parametrize(("words", "message"), TOGETHER)
def test_settings_together(words, message):
    if message is None:
        config = override(small("separate"), words)
        begin(config)
        step(config)
    else:
        with pytest.raises((ConfigError, ValueError), match=message):
            begin(override(small("separate"), words))
