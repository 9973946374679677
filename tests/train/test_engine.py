"""The engine under every ZeRO stage: the same losses as one process, bit-equal state in and out, guarded steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.ranks import run_ranks
from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import deepspeed_json
from vatt.config import ConfigError

JOB = str(Path(__file__).with_name("engine_job.py"))


def run(*jobs, ranks=2):
    """The logs of jobs that the same processes do one after the other."""
    full = [{"first": 0, "last": 4, **job, "out": str(job["out"])} for job in jobs]
    run_ranks(ranks, JOB, json.dumps(full))
    return [json.loads(Path(job["out"]).read_text()) for job in full]


def losses(log):
    return torch.tensor([entry["loss"] for entry in log], dtype=torch.float64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that all others are held against: one process, no ZeRO, four steps."""
    folder = tmp_path_factory.mktemp("whole")
    models = ("vatt-tiny", "vatt-ma-tiny")
    logs = run(*({"out": folder / name, "engine": {"zero": 0}, "model": name} for name in models), ranks=1)
    return {name: losses(log) for name, log in zip(models, logs, strict=True)} | {"state": folder / "vatt-tiny"}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_agree_with_one_and_resume_bit_equal(whole, tmp_path, zero):
    """The losses of 2 ranks are those of one process on the joined batch; a run in two halves is the run in one."""
    engine = {"engine": {"zero": zero}}
    through, first, second = run(
        {"out": tmp_path / "through", **engine},
        {"out": tmp_path / "half", **engine, "last": 2},
        {"out": tmp_path / "rest", **engine, "first": 2, "load": str(tmp_path / "half")},
    )
    torch.testing.assert_close(losses(through), whole["vatt-tiny"], rtol=1e-3, atol=0)
    torch.testing.assert_close(losses(through)[:1], whole["vatt-tiny"][:1], rtol=1e-6, atol=0)
    assert first + second == through
    for part in (".model", ".optimizer"):
        one, two = load_file(f"{tmp_path / 'through'}{part}"), load_file(f"{tmp_path / 'rest'}{part}")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_state_moves_between_stages_and_numbers_of_ranks(whole, tmp_path):
    half, load = {"out": tmp_path / "half", "last": 2}, {"first": 2, "load": str(tmp_path / "half")}
    _, other = run({**half, "engine": {"zero": 3}}, {**load, "out": tmp_path / "other", "engine": {"zero": 0}})
    (alone,) = run({**load, "out": tmp_path / "alone", "engine": {"zero": 1}}, ranks=1)
    for rest in (other, alone):
        torch.testing.assert_close(losses(rest), whole["vatt-tiny"][2:], rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_what_is_not_finite_changes_nothing(tmp_path, zero):
    """A NaN input, and an infinite gradient, on one rank alone: both ranks skip the step and go on."""
    (log,) = run({"out": tmp_path / "a", "engine": {"zero": zero}, "poison_gradient": 1, "poison": 2})
    assert [entry["applied"] for entry in log] == [True, False, False, True]
    state = load_file(f"{tmp_path / 'a'}.model")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert load_file(f"{tmp_path / 'a'}.optimizer")["step"] == 2


@pytest.mark.slow
def test_memory_savers_change_no_loss(whole, tmp_path):
    savers = [
        {"zero": 1, "activation_checkpointing": True},
        {"zero": 3, "activation_checkpointing": True},
        {"zero": 2, "offload_optimizer": True},
    ]
    for log in run(*({"out": tmp_path / str(number), "engine": engine} for number, engine in enumerate(savers))):
        torch.testing.assert_close(losses(log), whole["vatt-tiny"], rtol=1e-3, atol=0)


@pytest.mark.slow
def test_unified_bf16_accumulation_and_clipping_run(whole, tmp_path):
    half, shared, parts = run(
        {"out": tmp_path / "half", "model": "vatt-ma-tiny", "engine": {"zero": 2, "precision": "bf16"}},
        {"out": tmp_path / "shared", "model": "vatt-ma-tiny", "engine": {"zero": 3}},
        {"out": tmp_path / "parts", "engine": {"zero": 2, "gradient_accumulation": 2}, "clip": 0.5},
    )
    exact = whole["vatt-ma-tiny"]
    torch.testing.assert_close(losses(half)[0], exact[0], rtol=0.1, atol=0)  # batch norm over 8 clips magnifies bf16
    assert all(entry["applied"] for entry in half)
    assert torch.isfinite(losses(half)).all()  # the rate is too high here for the loss to fall, also in fp32
    torch.testing.assert_close(losses(shared)[:3], exact[:3], rtol=1e-3, atol=0)
    assert all(entry["applied"] for entry in parts)
    assert load_file(f"{tmp_path / 'parts'}.optimizer")["step"] == 4


@pytest.mark.slow
def test_bf16_resumes_bit_equal(tmp_path):
    """From its fp32 weights. Stage 0 in bf16 is what a GPU runs by default."""
    engine = {"engine": {"zero": 0, "precision": "bf16"}}
    through, first, second = run(
        {"out": tmp_path / "through", **engine},
        {"out": tmp_path / "half", **engine, "last": 2},
        {"out": tmp_path / "rest", **engine, "first": 2, "load": str(tmp_path / "half")},
    )
    assert first + second == through
    assert load_file(f"{tmp_path / 'rest'}.optimizer")["step"] == 4
    weights = load_file(f"{tmp_path / 'rest'}.model")
    assert any((value.float() != value.bfloat16().float()).any() for value in weights.values())


@pytest.mark.slow
def test_no_compiler_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    stages = [{"zero": 0}, {"zero": 2, "offload_optimizer": True}, {"zero": 3, "precision": "bf16"}]
    run(*({"out": tmp_path / str(number), "engine": engine, "last": 1} for number, engine in enumerate(stages)))
    assert not (tmp_path / "extensions").exists()


def test_generated_deepspeed_json(tmp_path):
    optim = OptimConfig(clip_norm=0.5)
    made = deepspeed_json(EngineConfig(zero=2, offload_optimizer=True, gradient_accumulation=4), optim, 8, bf16=True)
    assert made["zero_optimization"]["stage"] == 2
    assert made["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (8, 4)
    assert made["gradient_clipping"] == 0.5
    assert made["bf16"]["enabled"]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}))
    merged = deepspeed_json(EngineConfig(zero=1, deepspeed=str(own)), optim, 8, bf16=False)
    assert merged["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert merged["wall_clock_breakdown"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("[]", "expected an object"),
        ('{"optimizer": {}}', "optimizer is set by"),
        ('{"zero_optimization": {"stage": 3}}', "stage is 3, but --zero is 1"),
        ('{"fp16": {"enabled": true}}', "fp16 is not supported"),
        ('{"bf16": {"enabled": true}}', "bf16.enabled is True; set engine.precision"),
        ('{"zero_optimization": 1}', "zero_optimization: expected an object, got 1"),
    ],
)
def test_a_deepspeed_json_that_contradicts_is_refused(tmp_path, content, message):
    own = tmp_path / "own.json"
    own.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        deepspeed_json(EngineConfig(zero=1, deepspeed=str(own)), OptimConfig(), 8, bf16=False)
    assert "own.json" in str(caught.value)
