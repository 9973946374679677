"""The engine under every ZeRO stage on two ranks: losses of a plain loop, bit-equal state in and out, guarded steps.

All jobs run in one start of the processes, which takes longer than what they do.
"""

from __future__ import annotations

import functools
import json

import pytest
import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from tests.train.engine_job import RATE, batch_of, small_pretraining
from tests.train.plain import reference
from tests.train.ranks import run_engine
from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import deepspeed_json
from vatt.config import ConfigError

STAGES = (0, 1, 2, 3)
BF16 = {"zero": 0, "precision": "bf16"}
CLIP = 0.01  # every gradient here is far longer
SAVERS = {
    "checkpointing 1": {"zero": 1, "activation_checkpointing": True},
    "checkpointing 3": {"zero": 3, "activation_checkpointing": True},
    "offload": {"zero": 2, "offload_optimizer": True},
}


QUIET = {
    "0": {"zero": 0},
    "1": {"zero": 1},
    "bf16": BF16,
    "bf16 2": {"zero": 2, "precision": "bf16"},
    "parts": {"zero": 1, "precision": "bf16", "gradient_accumulation": 2},
    "contrastive": {"zero": 0, "precision": "bf16", "contrastive_parts": 2},
}
PARTED = {
    "contrastive 0": {"zero": 0, "contrastive_parts": 4},
    "contrastive 1": {"zero": 1, "contrastive_parts": 2},
    "contrastive 2": {"zero": 2, "contrastive_parts": 4},
    "contrastive 3": {"zero": 3, "contrastive_parts": 2},
    "contrastive checkpointing": {"zero": 3, "contrastive_parts": 4, "activation_checkpointing": True},
}

GRAPHED = {"0": {"zero": 0}, "1": {"zero": 1}, "2": {"zero": 2}, "bf16": BF16}


ONCE = {"fp32": {"zero": 0}, "bf16": BF16, "contrastive": BF16 | {"contrastive_parts": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def runs(folder):
    """Jobs on two ranks: name -> (log, weights, optimizer state). Without a compiler: none may be needed."""
    jobs = {
        "bf16": {"engine": BF16},
        "bf16 half": {"engine": BF16, "last": 2},
        "bf16 rest": {"engine": BF16, "first": 2, "load": "bf16 half"},
        "unified bf16": {"model": "vatt-ma-tiny", "engine": {"zero": 2, "precision": "bf16"}},
        "parts": {"engine": {"zero": 2, "gradient_accumulation": 2}, "clip": 0.5},
        **{name: {"engine": engine} for name, engine in PARTED.items() if engine["zero"] < 3},
        "unified contrastive": {"model": "vatt-ma-tiny", "engine": PARTED["contrastive 2"]},
        "poison contrastive": {"engine": PARTED["contrastive 2"], "poison_gradient": 1, "poison": 2},
        "contrastive bf16": {"engine": BF16 | {"contrastive_parts": 4}},
        "contrastive bf16 half": {"engine": BF16 | {"contrastive_parts": 4}, "last": 2},
        "contrastive bf16 rest": {
            "engine": BF16 | {"contrastive_parts": 4},
            "first": 2,
            "load": "contrastive bf16 half",
        },
        **{f"{name} once": {"engine": engine, "last": 1} for name, engine in ONCE.items()},
        **{f"on gpu {name}": {"engine": engine, "as_on_gpu": True, "clip": CLIP} for name, engine in QUIET.items()},
        **{
            f"graphs {name}": {"engine": {**engine, "cuda_graphs": True}, "graphs": True}
            for name, engine in GRAPHED.items()
        },
        "on gpu poison": {"engine": {"zero": 1}, "as_on_gpu": True, "poison_gradient": 1, "poison": 2},
        **{name: {"engine": engine} for name, engine in SAVERS.items() if engine["zero"] < 3},
    }
    for stage in STAGES:  # in this order: ZeRO 3 leaves another linear layer behind, that rounds otherwise
        zero = {"engine": {"zero": stage}}
        jobs[f"{stage}"] = zero
        jobs[f"{stage} half"] = {**zero, "last": 2}
        jobs[f"{stage} rest"] = {**zero, "first": 2, "load": f"{stage} half"}
        jobs[f"poison {stage}"] = {**zero, "poison_gradient": 1, "poison": 2}
        jobs[f"unified {stage}"] = {**zero, "model": "vatt-ma-tiny"}
        jobs[f"clip {stage}"] = {**zero, "last": 1, "clip": CLIP}
        jobs[f"wide {stage}"] = {**zero, "last": 1, "model": "wide"}
    jobs |= {name: {"engine": engine} for name, engine in (SAVERS | PARTED).items() if engine["zero"] == 3}
    jobs["on gpu 3"] = {"engine": {"zero": 3}, "as_on_gpu": True, "last": 2}
    jobs["bf16 3"] = {"engine": {"zero": 3, "precision": "bf16"}, "last": 1}
    jobs["3 to 0"] = {"engine": {"zero": 0}, "first": 2, "load": "3 half"}
    extensions = folder / "extensions"
    found = run_engine(folder, jobs, 2, TORCH_EXTENSIONS_DIR=str(extensions), CXX=str(folder / "no-compiler"))
    assert not extensions.exists()
    return found


@functools.cache
def plain(name="vatt-tiny"):
    """What the engine should do, on one process and without it."""
    make = functools.partial(small_pretraining, name)
    return reference(make, functools.partial(batch_of, poison=False), "adam", lambda step: RATE)


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*map(str, STAGES), *SAVERS, *PARTED])
def test_two_ranks_train_as_one_on_the_joined_batch(runs, name):
    plain().check_losses(runs[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "contrastive"])
def test_the_modality_agnostic_model_too(runs, stage):
    plain("vatt-ma-tiny").check_losses(runs[f"unified {stage}"][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*map(str, STAGES), "bf16", "contrastive bf16"])
def test_a_run_in_two_halves_is_bit_equal_to_the_run_in_one(runs, name):
    """In bf16, from its fp32 weights: stage 0 in bf16 is what a GPU runs by default."""
    whole, half, rest = (runs[f"{name}{part}"] for part in ("", " half", " rest"))
    assert half[0] + rest[0] == whole[0]
    equal(rest[1], whole[1])
    equal(rest[2], whole[2])
    assert rest[2]["step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_save_holds_one_tensor_at_a_time(runs, stage):
    """On both ranks; weights and moments are 36 MiB, which either held before. Buffers and code take 5 to 11."""
    log, weights, optimizer = runs[f"wide {stage}"]
    assert sum(x.nbytes for x in (*weights.values(), *optimizer.values())) > 36 * 2**20
    if None in log[0]["growth"]:
        pytest.skip("the system does not tell how much memory a process had")
    assert max(log[0]["growth"]) < 14


@pytest.mark.slow
def test_a_state_moves_between_stages_and_numbers_of_ranks(runs, folder):
    alone = run_engine(folder, {"alone": {"engine": {"zero": 1}, "first": 2, "load": "3 half"}}, ranks=1)["alone"]
    for log, *_ in (runs["3 to 0"], alone):
        plain().check_losses(log, first=2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "contrastive"])
def test_what_is_not_finite_changes_nothing(runs, stage):
    """An infinite gradient, and a NaN in the input, on one rank alone: both ranks skip the step and go on."""
    log, weights, optimizer = runs[f"poison {stage}"]
    assert [entry["applied"] for entry in log] == [True, False, False, True]
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert optimizer["step"] == 2


@pytest.mark.slow
def test_parts_in_bf16_are_as_exact_as_the_whole(runs):
    """Their gradients are added up in fp32: the error of the whole gradient is that of one bf16 pass (half of it here,
    for the loss is steep), within a tenth."""

    def gradient(name):
        state = runs[f"{name} once"][2]
        return torch.cat([x.flatten() for name, x in sorted(state.items()) if name.endswith("exp_avg")])

    errors = {name: (gradient(name) - gradient("fp32")).norm() for name in ("bf16", "contrastive")}
    assert 0 < errors["contrastive"] < 1.1 * errors["bf16"]
    losses = [runs[f"{name} once"][0][0]["loss"] for name in ("bf16", "contrastive")]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUIET)
def test_neither_deepspeed_nor_the_optimizer_reads_what_the_device_computes(runs, name):
    """As on a GPU, where each such read waits. ZeRO 3 and offloading do read (docs/kernels.md)."""
    log, *_ = runs[f"on gpu {name}"]
    assert [entry["reads"] for entry in log] == [[]] * 4
    assert all(entry["applied"] for entry in log)
    assert "utils.py is_invalid_grad_norm" in runs["on gpu 3"][0][-1]["reads"]


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHED)
def test_graphs_change_no_bit(runs, name):
    """DeepSpeed's hooks see the gradients that leave a graph, in memory that the next replay writes over."""
    for found, expected in zip(runs[f"graphs {name}"][1:], runs[name][1:], strict=True):
        equal(found, expected)
    assert runs[f"graphs {name}"][0] == runs[name][0]


@pytest.mark.slow
def test_what_is_not_finite_changes_nothing_where_only_the_device_knows_it(runs):
    log, weights, optimizer = runs["on gpu poison"]
    assert [entry["applied"] for entry in log] == [True, False, False, True]
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert optimizer["step"] == 2


@pytest.mark.slow
def test_bf16_keeps_fp32_weights(runs):
    log, weights, _ = runs["unified bf16"]
    exact = plain("vatt-ma-tiny").exact.losses["loss 0"]
    assert abs(log[0]["loss"] - exact) < 0.1 * exact  # batch norm over 8 clips magnifies bf16
    assert all(entry["applied"] for entry in log)
    assert torch.isfinite(torch.tensor([entry["loss"] for entry in log])).all()
    for state in (weights, runs["bf16"][1]):
        assert any((value.float() != value.bfloat16().float()).any() for value in state.values())


@pytest.mark.slow
def test_accumulation_and_clipping_run(runs):
    log, _, optimizer = runs["parts"]
    assert all(entry["applied"] for entry in log)
    assert optimizer["step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_whole_gradient_is_clipped(runs, stage):
    """Adam's mean after one step is a tenth of the clipped gradient."""
    _, _, optimizer = runs[f"clip {stage}"]
    means = [value.flatten() for name, value in optimizer.items() if name.endswith(".exp_avg")]
    torch.testing.assert_close(torch.cat(means).double().norm().item(), CLIP / 10, rtol=1e-4, atol=0)


def test_gradients_of_parts_are_added_up_in_fp32_and_never_offloaded(tmp_path):
    """What DeepSpeed would do otherwise was seen: it dropped the gradients of the heads."""
    optim = OptimConfig()
    made = deepspeed_json(EngineConfig(contrastive_parts=4), optim, 8, bf16=True)
    assert (made["zero_optimization"]["stage"], made["data_types"]["grad_accum_dtype"]) == (2, "fp32")
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (8, 4)
    for zero, stage in ((0, 0), (1, 1), (3, 3)):
        made = deepspeed_json(EngineConfig(zero=zero, contrastive_parts=4), optim, 8, bf16=False)
        assert made["zero_optimization"]["stage"] == stage
        assert "data_types" not in made
    assert "data_types" not in deepspeed_json(EngineConfig(), optim, 8, bf16=True)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}))
    for config in (
        EngineConfig(zero=2, contrastive_parts=2, offload_optimizer=True),
        EngineConfig(zero=3, contrastive_parts=2, deepspeed=str(own)),
    ):
        with pytest.raises(ConfigError, match=r"engine\.contrastive_parts: not with an offloaded optimizer"):
            deepspeed_json(config, optim, 8, bf16=False)


def test_a_deepspeed_that_adds_parts_up_in_bf16_is_refused(monkeypatch):
    """As versions before 0.19.8 do in stage 2, whatever grad_accum_dtype says."""
    monkeypatch.delattr(DeepSpeedZeroOptimizer, "_use_compact_grad_partition_buffer")
    optim = OptimConfig()
    with pytest.raises(ConfigError, match=r"engine\.contrastive_parts: DeepSpeed .* deepspeed>=0\.19\.8"):
        deepspeed_json(EngineConfig(contrastive_parts=4), optim, 8, bf16=True)
    deepspeed_json(EngineConfig(contrastive_parts=4), optim, 8, bf16=False)
    deepspeed_json(EngineConfig(zero=3, contrastive_parts=4), optim, 8, bf16=True)


def test_generated_deepspeed_json(tmp_path):
    optim = OptimConfig(clip_norm=0.5)
    made = deepspeed_json(EngineConfig(zero=2, offload_optimizer=True, gradient_accumulation=4), optim, 8, bf16=True)
    assert made["zero_optimization"]["stage"] == 2
    assert made["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (8, 4)
    assert made["gradient_clipping"] == 0  # our optimizer clips
    assert deepspeed_json(EngineConfig(zero=3), optim, 8, bf16=True)["gradient_clipping"] == 0.5
    assert made["bf16"]["enabled"]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}))
    merged = deepspeed_json(EngineConfig(zero=1, deepspeed=str(own)), optim, 8, bf16=False)
    assert merged["zero_optimization"] == {"stage": 1, "overlap_comm": False, "compute_grad_norm": False}
    assert merged["wall_clock_breakdown"]


@pytest.mark.parametrize(
    ("engine", "optim", "bf16", "overflow", "norm"),
    [
        ({"zero": 0}, {}, True, False, False),  # runs as stage 1
        ({"zero": 2}, {"clip_norm": 1.0}, True, False, False),
        ({"zero": 1}, {}, False, None, False),
        ({"zero": 1}, {"clip_backbone": 1.0}, True, False, False),
        ({"zero": 2, "offload_optimizer": True}, {}, True, True, True),
        ({"zero": 3}, {}, True, True, True),
        ({"zero": 0}, {}, False, None, True),
    ],
)
def test_deepspeed_reads_nothing_of_the_gradient_where_our_optimizer_can_guard_it_alone(
    engine, optim, bf16, overflow, norm
):
    made = deepspeed_json(EngineConfig(**engine), OptimConfig(**optim), 8, bf16)
    assert made.get("bf16", {}).get("check_grad_overflow") is overflow
    assert made["zero_optimization"].get("compute_grad_norm", True) is norm
    assert made["timers"] == {"throughput": {"enabled": False}}


def test_the_users_own_words_to_deepspeed_hold(tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"bf16": {"check_grad_overflow": True}, "gradient_clipping": 2.0}))
    made = deepspeed_json(EngineConfig(zero=1, deepspeed=str(own)), OptimConfig(), 8, bf16=True)
    assert made["bf16"]["check_grad_overflow"]
    assert made["gradient_clipping"] == 2.0
    assert "compute_grad_norm" not in made["zero_optimization"]  # DeepSpeed needs the norm to clip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
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
