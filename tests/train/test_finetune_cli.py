"""The command line of fine-tuning: its flags, the paper's recipes, what overrides what, and names that are wrong."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from train.config.finetuning import NAMES, PAPER, FinetuneConfig, recipe
from train.config.sections import EngineConfig
from train.finetuning.cli import parse, parser
from vatt.config import ConfigError, from_dict, to_dict
from vatt.models import VATT
from vatt.presets import preset
from vatt.weights.folder import PretrainedError, save_pretrained

PAPER_FACTS = {
    "kinetics": {"lr": 0.005, "warmup": 2500, "batch": 64, "steps": 100_000, "smoothing": 0.1, "mixup": 0.0},
    "moments": {"lr": 0.005, "warmup": 2500, "batch": 64, "steps": 100_000, "smoothing": 0.1, "mixup": 0.0},
    "audioset": {"lr": 0.2, "warmup": 5000, "batch": 1024, "steps": 50_000, "smoothing": 0.0, "mixup": 5.0},
    "imagenet": {"lr": 0.08, "warmup": 0, "batch": 512, "steps": 125_113, "smoothing": 0.1, "mixup": 0.0},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a small modality-agnostic model."""
    config = preset("vatt-ma-tiny")
    config.text.vocab_size = config.unified.txt_vocab_size = 20
    part = config.unified
    part.num_layers, part.d_model, part.d_kv, part.d_ff, part.num_heads = 1, 16, 8, 32, 2
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "shared"
    save_pretrained(VATT(config), folder)
    return str(folder)


def test_at_most_thirteen_flags():
    flags = [action for action in parser()._actions if action.option_strings and "-h" not in action.option_strings]
    shown = [action for action in flags if action.help != "==SUPPRESS=="]
    assert {action.option_strings[0] for action in flags} - {a.option_strings[0] for a in shown} == {"--local_rank"}
    assert len(shown) <= 13


@pytest.mark.parametrize("name", PAPER_FACTS)
def test_recipes_are_those_of_the_paper(name):
    config = parse(["--config", name, "--data", "a.csv", *_task(name)]).config
    optim, targets, run = config.optim, config.targets, config.run
    assert PAPER_FACTS[name] == {
        "lr": optim.lr,
        "warmup": optim.warmup_steps,
        "batch": run.batch_size,
        "steps": run.steps,
        "smoothing": targets.smoothing,
        "mixup": targets.mixup,
    }
    assert (optim.kind, optim.momentum, optim.schedule, optim.weight_decay) == ("sgd", 0.9, "cosine", 0.0)
    assert (optim.clip_backbone, optim.clip_norm) == (0.75, 0.0)
    assert not config.model.backbone.random_patch_sampling
    assert config.model.dropout == (0.0 if name == "audioset" else 0.5)
    assert config.model.labels == ("multi" if name == "audioset" else "single")


def _task(name):
    return ["--task", {"audioset": "audio", "imagenet": "image"}.get(name, "video")]


@pytest.mark.parametrize(
    ("task", "tables", "seconds"),
    [("video", (8, 20, 20), 2.56), ("audio", 1200, 6.4), ("image", (1, 24, 24), None)],
)
def test_the_task_chooses_recipe_and_input(task, tables, seconds):
    config = parse(["--task", task, "--config", "paper", "--data", "a.csv"]).config
    assert to_dict(config.targets) == to_dict(recipe(PAPER[task], task).targets)
    section, spec = config.model.backbone, config.model.input
    if task == "audio":
        assert (section.max_temporal_buckets, spec.samples) == (tables, 153_600)
    else:
        sides = (section.max_temporal_buckets, section.max_vertical_buckets, section.max_horizontal_buckets)
        assert sides == tables
    assert seconds is None or spec.seconds == pytest.approx(seconds)
    assert (config.evaluation.clips, config.evaluation.crops) == {"video": (4, 3), "audio": (4, 1), "image": (1, 1)}[
        task
    ]


def test_no_data_is_the_sample():
    for task, label in (("video", "motion"), ("audio", "shape"), ("image", "shape")):
        job = parse(["--task", task])
        assert (job.sample, job.config.label, job.config.init) == (True, label, None)
        assert job.config.model.backbone.d_model < 256
    assert not parse(["--data", "a.csv"]).sample


def test_the_backbone_is_that_of_init_and_the_input_the_recipe_s(shared):
    paper = ["--config", "paper", "--data", "a.csv", "--init", shared]
    config = parse(["--task", "audio", *paper, "model.input.sample_rate=12000"]).config
    part = config.model.waveform
    assert (part.d_model, part.num_layers, part.pre_projection, part.post_projection) == (16, 1, True, True)
    assert (config.init, config.model.name) == (shared, "vatt-ma-tiny-audio")
    assert part.max_temporal_buckets == config.model.input.samples // part.temporal_patch_size == 76_800 // 512
    drop = parse([*paper, "model.video.random_patch_sampling=true"]).config.model.video
    assert (drop.random_patch_sampling, drop.d_model, drop.max_vertical_buckets) == (True, 16, 20)


def test_flags_go_over_the_recipe_and_overrides_over_flags():
    arguments = ["--data", "a.csv", "--steps", "7", "--batch-size", "6", "--zero", "2", "--label", "kind"]
    config = parse([*arguments, "--classes", "c.txt", "run.steps=9", "optim.kind=adam", "--model", "vit-medium"]).config
    assert (config.run.steps, config.run.batch_size, config.engine.zero) == (9, 6, 2)
    assert (config.label, config.classes, config.optim.kind) == ("kind", "c.txt", "adam")
    assert (config.model.name, config.model.video.d_model) == ("vit-medium-video", 1024)


def test_auto_takes_the_input_of_the_pretrained_model(shared):
    config = parse(["--data", "a.csv", "--init", shared]).config
    assert (config.model.input.size, config.model.video.max_vertical_buckets) == (64, 4)
    config = parse(["--data", "a.csv", "--init", shared, "--task", "image", "model.input.size=32"]).config
    assert (config.model.input.frames, config.model.input.size, config.model.video.max_vertical_buckets) == (4, 32, 2)
    with pytest.raises(ConfigError, match="--init brings its own model"):
        parse(["--data", "a.csv", "--init", shared, "--model", "vit-base"])


def test_a_saved_configuration_comes_back(tmp_path):
    config = parse(["--task", "audio", "--data", "a.csv", "optim.lr=0.1"]).config
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert parse(["--config", str(path)]).config == config
    job = parse(["--resume", "--out", str(tmp_path), "--steps", "9"])
    assert (job.resume, job.config.task, job.config.run.steps, job.config.optim.lr) == (True, "audio", 9, 0.1)
    for name in NAMES:
        made = recipe(name, {"audioset": "audio", "imagenet": "image"}.get(name, "video"))
        assert from_dict(FinetuneConfig, to_dict(made)) == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "kinetiks"], "unknown configuration 'kinetiks'; did you mean 'kinetics'"),
        (["--config", "kinetics", "--task", "audio"], "is a recipe of --task video, not audio"),
        (["--model", "vit-hugh"], "unknown model 'vit-hugh'; did you mean"),
        (["--model", "vit-base", "--init", "a"], "--init brings its own model"),
        (["optim.clip_bakbone=1"], "did you mean 'optim.clip_backbone'"),
        (["optim.clip_norm=1", "--config", "paper"], "only one of the two"),
        (["model.input.size=8"], "less than one patch"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "a", "--init", "b"], "leave --init out"),
        (["--config", "absent.json"], "absent.json: cannot read"),
        (["--batch-size", "0"], "batch_size: expected int from 1 to 10,000,000, got 0"),
    ],
)
def test_wrong_names_and_values(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(arguments)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(PretrainedError, match=re.escape(str(tmp_path))):
        parse(["--init", str(tmp_path)])


@pytest.mark.parametrize("key", ["init=a", "task=audio", "model.num_classes=7", "data.vocabulary=words.txt"])
def test_what_an_override_cannot_set_is_refused(key):
    with pytest.raises(ConfigError, match=re.escape(key.partition("=")[0])):
        parse(["--data", "a.csv", key])


def test_own_data_by_override_is_no_sample():
    job = parse(["--task", "video", 'data.sources=["a.csv", "b.csv"]'])
    assert (job.sample, job.auto, job.config.label) == (False, True, "label")


def test_a_classifier_hears_what_its_backbone_heard(tmp_path, shared):
    def level(*arguments):
        return parse(["--task", "audio", *arguments]).config.model.input.audio_level

    assert level() == level("--init", shared) == level("--model", "wat-base") == "rms"
    before = tmp_path / "before"
    shutil.copytree(shared, before)
    values = json.loads((before / "config.json").read_text())
    del values["input"]["audio_level"]
    (before / "config.json").write_text(json.dumps(values))
    assert level("--init", str(before)) == level("--init", str(before), "--config", "audioset") == "as_is"
    saved = to_dict(parse(["--task", "audio"]).config)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert parse(["--resume", "--out", str(tmp_path)]).config.model.input.audio_level == "rms"
    del saved["model"]["input"]["audio_level"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert parse(["--resume", "--out", str(tmp_path)]).config.model.input.audio_level == "as_is"


def test_parts_of_a_contrastive_batch_are_refused_by_name():
    """Fine-tuning has no contrastive loss; and one batch is divided in one way."""
    with pytest.raises(ConfigError, match=r"engine\.contrastive_parts: is for a contrastive loss"):
        parse(["--data", "x.csv", "--out", "out", "engine.contrastive_parts=2"])
    with pytest.raises(ValueError, match="contrastive_parts, gradient_accumulation: only one of the two"):
        EngineConfig(contrastive_parts=0, gradient_accumulation=2)
    with pytest.raises(ValueError, match="contrastive_parts: expected int from 0 to 65,536, got -1"):
        EngineConfig(contrastive_parts=-1)
