"""Which folders a run takes: new ones, those of a start that came to nothing, and those to go on with."""

from __future__ import annotations

import pytest

from train.core.run_folder import RunFolder
from train.finetuning.cli import parse as parse_finetuning
from train.pretraining.cli import parse as parse_pretraining
from vatt.config import ConfigError


def holding(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


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
    with pytest.raises(ConfigError, match=r"^--out .*: holds files"):
        RunFolder.create(holding(tmp_path, *names), "mine")


@pytest.mark.parametrize("parse", [lambda words: parse_pretraining(words, on_gpu=False), parse_finetuning])
def test_a_start_that_came_to_nothing_cannot_be_gone_on_with(tmp_path, parse):
    holding(tmp_path, "recipe.json", "tokenizer.json")
    with pytest.raises(ConfigError, match=r"^--resume: .* holds no run that has begun"):
        parse(["--out", str(tmp_path), "--resume"])
