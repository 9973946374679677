"""Learning rates and optimizers against lr_schedules.npz and optimizers.npz."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.golden.golden import assert_close, load
from vatt.optim import SGD, Adam, cosine, step_cosine


def rates(settings, steps, clamp=False):
    common = dict(
        total_steps=settings["total_steps"],
        warmup_steps=settings["warmup_steps"],
        warmup_rate=settings["warmup_learning_rate"],
        clamp=clamp,
    )
    if settings["kind"] == "cosine":
        return np.array([cosine(s, base=settings["learning_rate_base"], **common) for s in steps])
    levels, starts = settings["learning_rate_levels"], settings["learning_rate_steps"]
    return np.array([step_cosine(s, levels=levels, steps=starts, **common) for s in steps])


def test_schedules():
    golden = load("lr_schedules")
    assert golden.config
    for name, settings in golden.config.items():
        ours, expected = rates(settings, golden.inputs[f"steps/{name}"]), golden.outputs[name]
        assert np.array_equal(np.isnan(ours), np.isnan(expected)), name
        finite = ~np.isnan(expected)
        assert_close(ours[finite], expected[finite], name=name)


def test_clamped_schedules_differ_only_after_the_end():
    golden = load("lr_schedules")
    for name, settings in golden.config.items():
        steps, expected = golden.inputs[f"steps/{name}"], golden.outputs[name]
        before = steps < settings["total_steps"]
        ours = rates(settings, steps, clamp=True)
        assert_close(ours[before], expected[before], name=name)
        assert np.isfinite(ours).all()
        assert len(set(ours[~before])) <= 1


FORMS = {"loop": dict(foreach=False), "foreach": dict(foreach=True), "fused": dict(fused=True)}


@pytest.mark.parametrize("form", FORMS)
def test_adam(form):
    golden = load("optimizers")
    for name, settings in golden.config["optimizers"].items():
        if settings["kind"] == "adam":
            _run(golden, name, settings, lambda params: Adam(params, **FORMS[form]))


def test_sgd():
    golden = load("optimizers")
    for name, settings in golden.config["optimizers"].items():
        if settings["kind"] == "sgd":
            assert not settings["nesterov"]
            _run(golden, name, settings, SGD)


def _run(golden, name, settings, build):
    schedule = golden.config["schedule"]
    weight = torch.nn.Parameter(torch.from_numpy(golden.inputs["w0"].copy()))
    optimizer = build([weight])
    for t, grad in enumerate(golden.inputs["grads"]):
        weight.grad = torch.from_numpy(grad.copy())
        if "clip" in settings:
            torch.nn.utils.clip_grad_norm_([weight], settings["clip"])
        for group in optimizer.param_groups:
            group["lr"] = cosine(
                t,
                base=schedule["init_learning_rate"],
                total_steps=schedule["total_steps"],
                warmup_steps=schedule["warmup_steps"],
                warmup_rate=schedule["warmup_learning_rate"],
            )
        optimizer.step()
        assert_close(weight, golden.outputs[name][t], name=f"{name} step {t}")
        if t == 3:  # the state can be saved and loaded
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = build([weight])
            optimizer.load_state_dict(state)
