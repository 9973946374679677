"""The update rule of fine-tuning under every ZeRO stage on two ranks, against a plain loop on the joined batch."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.finetune_engine_job import CLIP, batch_of, rate, small_module
from tests.train.ranks import run_ranks
from vatt.optim import SGD, Adam

JOB = str(Path(__file__).with_name("finetune_engine_job.py"))
STAGES = (0, 1, 2, 3)
WHOLE = [f"sgd {stage}" for stage in STAGES] + ["adam 2", "adam 3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All jobs in one start of two processes: name -> (log, weights, optimizer state)."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = {
        "sgd in parts": {"engine": {"zero": 2, "gradient_accumulation": 2}},
        "sgd bf16": {"engine": {"zero": 0, "precision": "bf16"}},
    }
    for stage in STAGES:  # in this order: ZeRO 3 leaves another linear layer behind, that rounds otherwise
        zero = {"engine": {"zero": stage}}
        for name in (name for name in WHOLE if name.endswith(str(stage))):
            jobs[name] = {**zero, "kind": name.split()[0]}
            jobs[f"{name} half"] = {**jobs[name], "last": 2}
            jobs[f"{name} rest"] = {**jobs[name], "first": 2, "load": str(folder / f"{name} half")}
        jobs[f"poison {stage}"] = {**zero, "last": 3, "poison": 2}
        jobs[f"frozen {stage}"] = {**zero, "frozen": True}
    jobs["sgd 0 to 3"] = {"engine": {"zero": 3}, "first": 2, "load": str(folder / "sgd 0 half")}
    jobs["sgd 3 to 0"] = {"engine": {"zero": 0}, "first": 2, "load": str(folder / "sgd 3 half")}
    run_ranks(2, JOB, json.dumps([{**job, "out": str(folder / name)} for name, job in jobs.items()]))
    return {
        name: (
            json.loads((folder / name).read_text()),
            load_file(folder / f"{name}.model"),
            load_file(folder / f"{name}.optimizer"),
        )
        for name in jobs
    }


@functools.cache
def plain(kind, steps=4, frozen=False):
    """What the engine should do, on one process and without it: (losses, weights, the states of the optimizer)."""
    module = small_module(frozen)
    backbone = [p for p in module.model.backbone.parameters() if p.requires_grad]
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    optimizer = (SGD if kind == "sgd" else Adam)([p for _, p in trained], lr=rate(kind, 0))
    losses = []
    for step in range(steps):
        loss = module(batch_of(step), step)["loss"]
        module.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if backbone:
            norm = torch.cat([p.grad.flatten() for p in backbone]).norm()
            assert norm > 2 * CLIP  # or these tests would not see whether it is clipped
            for p in backbone:
                p.grad.mul_(CLIP / norm)
        optimizer.param_groups[0]["lr"] = rate(kind, step)
        optimizer.step()
    state = {f"{name}.{key}": value for name, p in trained for key, value in optimizer.state[p].items()}
    return losses, {name: p.detach() for name, p in module.named_parameters()}, state


def losses(log):
    return torch.tensor([entry["loss"] for entry in log], dtype=torch.float64)


def close(found, expected, tolerance=2e-5):
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sgd_is_that_of_a_plain_loop(runs, stage):
    expected_losses, weights, state = plain("sgd")
    log, found, optimizer = runs[f"sgd {stage}"]
    torch.testing.assert_close(losses(log), torch.tensor(expected_losses, dtype=torch.float64), rtol=1e-4, atol=0)
    close(found, weights)
    assert optimizer["step"] == 4
    assert optimizer.keys() == {"step", *state}
    close(optimizer, state)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_adam_is_that_of_a_plain_loop(runs, stage):
    """By its second moments: Adam's weights hardly show how long a gradient was, and are noise where it should be 0."""
    _, _, state = plain("adam")
    _, _, optimizer = runs[f"adam {stage}"]
    assert optimizer["step"] == 4
    first = {name: value for name, value in state.items() if name.endswith(".exp_avg_sq")}
    assert first
    close(optimizer, first, tolerance=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_two_halves_are_bit_equal_to_the_whole(runs, name):
    whole, half, rest = (runs[f"{name}{part}"] for part in ("", " half", " rest"))
    assert half[0] + rest[0] == whole[0]
    equal(rest[1], whole[1])
    equal(rest[2], whole[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd 3 to 0", "sgd 0 to 3", "sgd in parts"])
def test_stage_and_parts_change_nothing(runs, name):
    _, weights, state = plain("sgd")
    _, found, optimizer = runs[name]
    close(found, weights)
    assert optimizer["step"] == 4
    close(optimizer, state)


@pytest.mark.slow
def test_bf16_has_fp32_weights_and_clips(runs):
    """A gradient that is not clipped would move the backbone more than ten times as far."""
    log, found, _ = runs["sgd bf16"]
    before, (_, after, _) = dict(small_module().named_parameters()), plain("sgd")
    assert all(entry["applied"] for entry in log)
    moved, expected = (
        torch.cat([(state[name] - value.detach()).flatten() for name, value in before.items() if "backbone" in name])
        for state in (found, after)
    )
    assert 0.5 < moved.norm() / expected.norm() < 2
    assert any((value != value.bfloat16().float()).any() for value in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_changes_neither_backbone_nor_head(runs, stage):
    """An infinite gradient in the backbone, on one rank: the classification layer must not move by itself."""
    log, weights, optimizer = runs[f"poison {stage}"]
    assert [entry["applied"] for entry in log] == [True, True, False]
    equal(weights, runs[f"sgd {stage} half"][1])
    equal(optimizer, runs[f"sgd {stage} half"][2])


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_frozen_backbone_stays(runs, stage):
    _, expected, _ = plain("sgd", frozen=True)
    _, weights, optimizer = runs[f"frozen {stage}"]
    start = dict(small_module().named_parameters())
    equal({n: v for n, v in weights.items() if "backbone" in n}, {n: v for n, v in start.items() if "backbone" in n})
    assert not torch.equal(weights["model.classifier.weight"], start["model.classifier.weight"])
    close(weights, expected)
    assert {name.split(".")[1] for name in optimizer if name != "step"} == {"classifier"}
