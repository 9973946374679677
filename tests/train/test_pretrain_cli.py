"""The command line: its flags, what overrides what, and names that are wrong."""

from __future__ import annotations

import json
import re

import pytest

from train.config.pretraining import RECIPES, PretrainConfig, recipe
from train.pretraining.cli import parse, parser
from vatt.config import ConfigError, from_dict, to_dict


def test_at_most_twelve_flags():
    flags = [action for action in parser()._actions if action.option_strings and "-h" not in action.option_strings]
    shown = [action for action in flags if action.help != "==SUPPRESS=="]
    assert {action.option_strings[0] for action in flags} - {a.option_strings[0] for a in shown} == {"--local_rank"}
    assert len(shown) <= 12


def test_no_argument_is_the_sample_and_own_data_have_a_recipe_chosen():
    job = parse([], on_gpu=False)
    assert job.sample
    assert not job.auto
    assert (job.config.model.name, job.resume, job.out) == ("vatt-tiny", False, None)
    assert parse([], on_gpu=True).config.model.name == "vatt-base"
    for words in (["--data", "videos"], ["--data", "videos", "--config", "auto"]):
        job = parse(words, on_gpu=False)
        assert (job.sample, job.auto) == (False, True)
        assert job.given == {"data.sources": ["videos"], "data.weights": []}
    assert parse(["--config", "auto"], on_gpu=True).sample
    job = parse(["--data", "videos", "--config", "paper"], on_gpu=False)
    assert (job.sample, job.auto, job.given) == (False, False, {})
    assert (job.config.run.steps, job.config.run.batch_size, job.config.optim.lr) == (500_000, 2048, 1e-4)


def test_flags_and_overrides():
    arguments = ["--data", "a", "--data", "b", "--weights", "3,1", "--model", "vatt-ma-base"]
    arguments += ["--zero", "2", "--steps", "7", "--batch-size", "6"]
    job = parse([*arguments, "optim.lr=3e-4", "run.steps=9", "model.head.kind=joint"], on_gpu=False)
    config = job.config
    assert (config.data.sources, config.data.weights) == (["a", "b"], [3.0, 1.0])
    assert (config.model.name, config.engine.zero, config.run.batch_size) == ("vatt-ma-base", 2, 6)
    assert (config.optim.lr, config.run.steps, config.model.head.kind) == (3e-4, 9, "joint")
    assert job.given == {
        "data.sources": ["a", "b"],
        "data.weights": [3.0, 1.0],
        "model": "vatt-ma-base",
        "engine.zero": 2,
        "run.steps": 9,
        "run.batch_size": 6,
        "optim.lr": 3e-4,
        "model.head.kind": "joint",
    }


def test_a_section_as_json_is_set_by_hand_field_by_field():
    job = parse(["--data", "a", 'data.augment={"flip": false, "hue": 0.1}'], on_gpu=False)
    assert job.given["data.augment.flip"] is False
    assert job.given["data.augment.hue"] == 0.1


def test_a_saved_configuration_comes_back(tmp_path):
    words = ["--config", "paper", "--data", "a", "--model", "vatt-ma-tiny", "optim.clip_norm=1"]
    config = parse(words, on_gpu=False).config
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert parse(["--config", str(path)], on_gpu=False).config == config
    job = parse(["--resume", "--out", str(tmp_path), "--steps", "9"], on_gpu=False)
    assert (job.config.run.steps, job.auto) == (9, False)
    for name in RECIPES:
        assert from_dict(PretrainConfig, to_dict(recipe(name))) == recipe(name)


def test_what_a_run_hears(tmp_path):
    """New models hear sounds at one level; the paper's recipe, and runs from before there was a setting, as is."""

    def level(*arguments):
        return parse(list(arguments), on_gpu=False).config.model.input.audio_level

    assert level() == level("--config", "sample", "--model", "vatt-ma-tiny") == level("--config", "sample-gpu") == "rms"
    assert level("--config", "paper", "--data", "a") == level("--config", "paper", "--model", "vatt-ma-tiny") == "as_is"
    assert level("--config", "paper", "model.input.audio_level=rms") == "rms"
    path = tmp_path / "config.json"
    saved = to_dict(recipe("sample"))
    path.write_text(json.dumps(saved))
    assert level("--resume", "--out", str(tmp_path)) == level("--config", str(path)) == "rms"
    del saved["model"]["input"]["audio_level"]
    path.write_text(json.dumps(saved))
    assert level("--resume", "--out", str(tmp_path)) == level("--config", str(path)) == "as_is"
    path.write_text('{"model": {"name": "vatt-tiny", "input": {"size": 32}}}')  # a user's, not that of a run
    assert level("--config", str(path)) == "rms"


def test_a_file_may_name_a_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "vatt-ma-tiny"\n[model.unified]\nnum_layers = 2\n[run]\nsteps = 5\n')
    config = parse(["--config", str(path)], on_gpu=False).config
    assert (config.model.backbone, config.model.unified.num_layers, config.model.unified.d_model) == ("unified", 2, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.learning_rate=1"], "unknown configuration key 'optim.learning_rate'"),
        (["optim.l=1"], "did you mean 'optim.lr'"),
        (["data.batch=1"], "did you mean 'run.batch_size'"),
        (["--model", "vatt-huge"], "unknown model 'vatt-huge'"),
        (["--config", "papr"], "unknown configuration 'papr'; did you mean 'paper'"),
        (["--config", "atuo"], "unknown configuration 'atuo'; did you mean 'auto'"),
        (["--data", "a", "optim.l=1"], "did you mean 'optim.lr'"),
        (["--config", "absent.json"], "absent.json: cannot read"),
        (["--data", "a", "--weights", "1,2"], "weights: 2 weights for 1 data sets"),
        (["--steps", "0"], "steps: expected int from 1 to 1,000,000,000, got 0"),
        (["engine.offload_optimizer=true"], "offload_optimizer: needs zero"),
        (["--resume"], "--resume needs --out"),
        (["optim.schedule=linear"], "'linear' is not one of"),
    ],
)
def test_wrong_names_and_values(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(arguments, on_gpu=False)


def test_an_unknown_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse(["--batchsize", "3"], on_gpu=False)
    assert "did you mean --batch-size?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["--steps", "3.5"], on_gpu=False)
    assert "did you mean" not in capsys.readouterr().err
