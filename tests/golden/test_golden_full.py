"""Whole pretraining models against full_*.npz."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import FORWARD, FORWARD_TRAINING, assert_close, assert_gradients, load, loaded, vatt_config
from vatt.objectives.pretraining import Pretraining
from vatt.weights.tensorflow.config import official_config
from vatt.weights.tensorflow.variables import variables

FILES = ["full_tx_fac", "full_ut_fac"]


def build(golden):
    if "model_config" in golden.config:  # the convolutional baseline, whose official configuration is whole
        return Pretraining(official_config(golden.config))
    parts = dict(golden.config)
    sync = parts.pop("use_xreplica_bn")
    parts["head"] = dict(parts["head"], sync_bn=sync)
    return Pretraining(vatt_config(parts, parts["model_arch"]))


def batch(golden):
    values = {"video": golden.tensor("video"), "audio": golden.tensor("audio").squeeze(-1)}
    clips = values["video"].shape[0]
    values["text"] = golden.tensor("text").unflatten(0, (clips, -1))
    return {**values, "audio_mask": golden.tensor("audio_mask"), "text_mask": golden.tensor("text_mask")}


def compare(golden, phase, tolerance, embeddings, losses):
    """Every recorded output of a phase: features, embeddings and losses."""
    for key, expected in golden.outputs.items():
        if not key.startswith(f"{phase}/"):
            continue
        name = key.removeprefix(f"{phase}/").removeprefix("bridge/")
        if name.startswith("losses/"):
            last = name.rpartition("/")[2]
            if last == "regularization_loss":
                assert expected == 0
                continue
            actual = losses["loss" if last in ("total_loss", "model_loss") else last]
        else:
            actual = embeddings[name]
        assert_close(actual, expected, tolerance, key)


@pytest.mark.parametrize("name", FILES)
def test_inference(name):
    golden = load(name)
    model, inputs = loaded(build(golden), golden), batch(golden)
    with torch.no_grad():
        embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
        compare(golden, "infer", FORWARD, embeddings, model(inputs, seed=0))


@pytest.mark.parametrize(("name", "checkpointing"), [(FILES[0], False), (FILES[1], True)])
def test_training(name, checkpointing):
    """One file without and one with activation checkpointing, which changes no number (tests/models holds that)."""
    golden = load(name)
    model, inputs = loaded(build(golden), golden).train(), batch(golden)
    model.vatt.activation_checkpointing = checkpointing
    embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
    losses = model.loss(embeddings, inputs["audio_mask"], inputs["text_mask"])
    compare(golden, "train", FORWARD_TRAINING, embeddings, losses)
    losses["loss"].backward()
    assert_gradients(model, golden)
    ours = variables(model)
    statistics = {key.removeprefix("after_train/"): v for key, v in golden.outputs.items() if key[:6] == "after_"}
    assert statistics
    for key, value in statistics.items():
        assert_close(ours[golden.paths[key]].tensor, value, FORWARD_TRAINING, key)
