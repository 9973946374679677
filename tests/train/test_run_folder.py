"""Which folders a run takes: new ones, those of a start that came to nothing, and those to go on with."""

from __future__ import annotations

import pytest

from train.core.run_folder import RunFolder
from train.core.run_lock import release_all
from train.finetuning.cli import parse as parse_finetuning
from train.pretraining.cli import parse as parse_pretraining
from vatt.config import ConfigError


def holding(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def _no_lock_stays():
    yield
    release_all()


@pytest.mark.parametrize(
    "names",
    [(), ("recipe.json", "tokenizer.json"), ("config.json", "environment.json", "tokenizer.json", "kernels.json")],
)
def test_a_start_that_came_to_nothing_can_be_made_again(tmp_path, names):
    holding(tmp_path, *names)
    assert RunFolder.create(tmp_path, "mine").path == tmp_path


@pytest.mark.parametrize(
    "names",
    [
        ("thesis.txt",),
        ("config.json",),
        ("config.json", "metrics.jsonl"),
        ("config.json", "tokenizer.json", "checkpoints/step-1/model.safetensors"),
        ("tokenizer.json", "model/model.safetensors"),
    ],
)
def test_what_somebody_wants_to_keep_is_not_written_over(tmp_path, names):
    with pytest.raises(
        ConfigError,
        match=r"^--out .*: holds .*run.*; choose an empty folder",
    ):
        RunFolder.create(holding(tmp_path, *names), "mine")


@pytest.mark.parametrize("parse", [lambda words: parse_pretraining(words, on_gpu=False), parse_finetuning])
def test_a_start_that_came_to_nothing_cannot_be_gone_on_with(tmp_path, parse):
    holding(tmp_path, "recipe.json", "tokenizer.json")
    with pytest.raises(ConfigError, match=r"^--resume: .* holds no run that has begun"):
        parse(["--out", str(tmp_path), "--resume"])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), False),
        (("recipe.json", "tokenizer.json", "run.lock"), False),
        (
            ("config.json", "tokenizer.json", "metrics.jsonl", "tensorboard/events", "checkpoints/.step-3.partly/x"),
            False,
        ),
        (("config.json", "metrics.jsonl", "checkpoints/step-00000003/state.json"), True),
        (("thesis.txt",), "holds files"),
        (("config.json",), "holds files"),
        (("config.json", "metrics.jsonl", "thesis.txt"), "holds files"),
        (("checkpoints/step-00000003/state.json",), "holds checkpoints, but no config.json"),
    ],
)
def test_one_command_goes_on_or_starts_or_says_why_not(tmp_path, names, found):
    holding(tmp_path, *names)
    if isinstance(found, bool):
        assert RunFolder.can_resume(tmp_path) == found
        return
    with pytest.raises(ConfigError, match=found):
        RunFolder.can_resume(tmp_path)


def test_a_run_without_a_checkpoint_is_started_again_where_that_was_asked_for(tmp_path):
    holding(tmp_path, "config.json", "metrics.jsonl", "skipped.jsonl", "tensorboard/events", "tokenizer.json")
    with pytest.raises(ConfigError, match="a run without a checkpoint; choose an empty folder, or add --resume"):
        RunFolder.create(tmp_path, "mine")
    RunFolder.create(tmp_path, "mine", restart=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "tokenizer.json", "run.lock"}


def test_settings_are_replaced_only_by_others(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config({"a": 1}, 0)
    first = folder.config.stat().st_ino
    folder.write_config({"a": 1}, 5)
    assert folder.config.stat().st_ino == first
    folder.write_config({"a": 2}, 5)
    assert (folder.config.read_text(), (tmp_path / "config-until-00000005.json").read_text()) == (
        '{\n "a": 2\n}',
        '{\n "a": 1\n}',
    )
