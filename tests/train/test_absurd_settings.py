"""Settings of all configuration classes: absurd values are refused by name, and others work where they are used."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from tests.data.media import click_at, write
from tests.train.test_every_setting import other_value
from train.config.finetuning import FinetuneConfig
from train.config.pretraining import PretrainConfig
from train.core.engine import deepspeed_json
from train.core.loop import learning_rate
from train.core.optimizers import make_optimizer
from vatt.clip import InputConfig
from vatt.config import ConfigError, describe_fields, from_dict, override, to_dict
from vatt.data.clips import Clip
from vatt.data.decode import DecoderError
from vatt.data.samples import PretrainReader
from vatt.data.tokenizer import Tokenizer

CLASSES = (PretrainConfig, FinetuneConfig)
NUMBERS = ["-1", "-1e30", str(10**30), "1e30", "NaN", "Infinity", "-Infinity", "1e999"]
ABSURD = [*NUMBERS, "", "\udcff", "[[1]]", "{}", "true"]
USED = ("data", "optim", "engine")  # sections that the second test uses; values of the others are only checked


def settings(cls):
    return [field for field in describe_fields(cls) if field.type != "section"]


def value_of(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def outcome(config, assignment):
    """The configuration with this setting, or the error."""
    try:
        return override(config, [assignment])
    except ConfigError as error:
        return error


@pytest.mark.parametrize("cls", CLASSES)
def test_absurd_values_are_refused_by_name_or_come_back_the_same(cls):
    refused, base, known = 0, cls(), {field.key for field in settings(CLASSES[0])}
    for field in settings(cls):
        if cls is not CLASSES[0] and field.key in known and not field.key.startswith("model."):
            continue  # of both
        number = field.type.partition(" | ")[0] in ("int", "float")
        for text in ABSURD:
            changed = outcome(base, f"{field.key}={text}")
            if isinstance(changed, ConfigError):
                assert field.key.rpartition(".")[2] in str(changed), f"{field.key}={text}"
                assert "\n" not in str(changed)
                refused += 1
                continue
            value = value_of(changed, field.key)
            assert from_dict(cls, json.loads(json.dumps(to_dict(changed)))) == changed
            if number and value is not None:
                assert math.isfinite(value), f"{field.key}={text}"
                assert abs(value) < 2**63, f"{field.key}={text}: without a range"
    assert refused > 10 * len([field for field in settings(cls) if field.type == "int"]) / 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    return Clip(write(tmp_path_factory.mktemp("clip") / "a.mp4", frames, fps=4, sound=click_at(1.0, 2.0)))


def use(config, clip):
    """What a job does with these sections at its start: DeepSpeed's JSON, a clip, and steps of the optimizer."""
    deepspeed_json(config.engine, config.optim, 2, bf16=False)
    config.data.workers = 0
    reader = PretrainReader(
        Tokenizer.train(["a"]), InputConfig(frames=4, fps=4, size=16, sample_rate=8000), config.data
    )
    sample = reader(clip, np.random.default_rng(0))
    assert sample["audio"].isfinite().all()
    module = torch.nn.Linear(4, 2)
    optimizer = make_optimizer(module, config.optim, on_gpu=False)
    for step in range(3):
        rate = learning_rate(config.optim, config.run.steps, step)
        assert 0 <= rate <= config.optim.lr + config.optim.final_lr
        for group in optimizer.param_groups:
            group["lr"] = rate
        module(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()
    assert all(x.isfinite().all() for x in module.parameters())


def test_other_values_work_where_they_are_used(clip, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    refused = {}
    base = PretrainConfig()
    use(base, clip)
    for field in settings(PretrainConfig):
        if field.key.partition(".")[0] not in USED or field.type.startswith(("list", "str | None")):
            continue
        try:
            use(override(base, [f"{field.key}={json.dumps(other_value(field, value_of(base, field.key)))}"]), clip)
        except (ValueError, DecoderError) as error:
            refused[field.key] = str(error)
    # which need another setting, or a package, and say which
    assert refused.keys() <= {"engine.offload_optimizer", "engine.kernels", "data.decoder"}
    assert all(key.rpartition(".")[2] in text for key, text in refused.items())
