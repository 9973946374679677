"""The update rule of fine-tuning under every ZeRO stage on two ranks, against a plain loop on the joined batch."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.train.engine_job import CLIP, labelled_batch, rate, small_classifier, tagged_batch
from tests.train.plain import reference
from tests.train.ranks import run_engine

STAGES = (0, 1, 2, 3)
WHOLE = [f"sgd {stage}" for stage in STAGES] + ["adam 2", "adam 3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All jobs in one start of two processes: name -> (log, weights, optimizer state)."""
    jobs = {
        "sgd in parts": {"engine": {"zero": 2, "gradient_accumulation": 2}},
        "sgd bf16": {"engine": {"zero": 0, "precision": "bf16"}},
        "tags": {"engine": {"zero": 0}, "model": "tags"},
        "tags in parts": {"engine": {"zero": 2, "gradient_accumulation": 2}, "model": "tags"},
    }
    for stage in STAGES:  # in this order: ZeRO 3 leaves another linear layer behind, that rounds otherwise
        zero = {"engine": {"zero": stage}}
        for name in (name for name in WHOLE if name.endswith(str(stage))):
            jobs[name] = {**zero, "kind": name.split()[0]}
            jobs[f"{name} half"] = {**jobs[name], "last": 2}
            jobs[f"{name} rest"] = {**jobs[name], "first": 2, "load": f"{name} half"}
        jobs[f"poison {stage}"] = {**zero, "last": 3, "poison_gradient": 2}
        jobs[f"poison head {stage}"] = {**jobs[f"poison {stage}"], "spoil_head": True}
        jobs[f"frozen {stage}"] = {**zero, "frozen": True}
        if stage < 3:
            on_gpu = {**zero, "as_on_gpu": True, "last": 3, "spoil_head": True}
            jobs[f"on gpu {stage}"] = on_gpu
            jobs[f"on gpu poison {stage}"] = {**on_gpu, "poison_gradient": 2}
    jobs["sgd 0 to 3"] = {"engine": {"zero": 3}, "first": 2, "load": "sgd 0 half"}
    jobs["sgd 3 to 0"] = {"engine": {"zero": 0}, "first": 2, "load": "sgd 3 half"}
    classifiers = {name: {"model": "classifier", **job} for name, job in jobs.items()}
    return run_engine(tmp_path_factory.mktemp("runs"), classifiers, ranks=2)


@functools.cache
def plain(kind, frozen=False):
    """What the engine should do, on one process and without it."""
    make = functools.partial(small_classifier, frozen)
    return reference(make, labelled_batch, kind, functools.partial(rate, kind), clip=CLIP)


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sgd_is_that_of_a_plain_loop(runs, stage):
    log, weights, optimizer = runs[f"sgd {stage}"]
    plain("sgd").check_losses(log)
    plain("sgd").check_weights(weights)
    plain("sgd").check_state(optimizer)
    assert optimizer.keys() == {"step", *plain("sgd").exact.state}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_adam_is_that_of_a_plain_loop(runs, stage):
    """By its second moments: Adam's weights hardly show how long a gradient was, and are noise where it should be 0."""
    log, _, optimizer = runs[f"adam {stage}"]
    plain("adam").check_losses(log)
    plain("adam").check_state(optimizer, ending=".exp_avg_sq")


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
    _, weights, optimizer = runs[name]
    plain("sgd").check_weights(weights)
    plain("sgd").check_state(optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tags", "tags in parts"])
def test_labels_are_weighted_by_their_counts_in_the_whole_batch(runs, name):
    """On two ranks, and in two parts on each, as in one process that has the whole batch."""
    log, weights, optimizer = runs[name]
    make = functools.partial(small_classifier, labels="multi")
    plain = reference(make, tagged_batch, "sgd", functools.partial(rate, "sgd"), clip=CLIP)
    plain.check_losses(log)
    plain.check_weights(weights)
    plain.check_state(optimizer)


@pytest.mark.slow
def test_bf16_has_fp32_weights_and_clips(runs):
    """A gradient that is not clipped would move the backbone more than ten times as far."""
    log, found, _ = runs["sgd bf16"]
    before, after = dict(small_classifier().named_parameters()), plain("sgd").exact.weights
    assert all(entry["applied"] for entry in log)
    moved, expected = (
        torch.cat([(state[name] - value.detach()).flatten() for name, value in before.items() if "backbone" in name])
        for state in (found, after)
    )
    assert 0.5 < moved.norm() / expected.norm() < 2
    assert any((value != value.bfloat16().float()).any() for value in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("where", ["poison", "poison head", "on gpu poison"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_changes_neither_backbone_nor_head(runs, stage, where):
    """An infinite gradient in the one, on one rank: the other must not move by itself, though ZeRO updates the backbone
    first and the classification layer then. Also where the device alone knows of it."""
    if f"{where} {stage}" not in runs:
        return  # ZeRO 3 reads what is not finite
    log, weights, optimizer = runs[f"{where} {stage}"]
    assert [entry["applied"] for entry in log] == [True, True, False]
    equal(weights, runs[f"sgd {stage} half"][1])
    equal(optimizer, runs[f"sgd {stage} half"][2])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_as_on_a_gpu_nothing_is_read_and_the_numbers_are_the_same(runs, stage):
    log, *_ = runs[f"on gpu {stage}"]
    assert [entry.pop("reads") for entry in log] == [[]] * 3
    assert log == runs[f"sgd {stage}"][0][:3]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_frozen_backbone_stays(runs, stage):
    _, weights, optimizer = runs[f"frozen {stage}"]
    start = dict(small_classifier().named_parameters())
    equal({n: v for n, v in weights.items() if "backbone" in n}, {n: v for n, v in start.items() if "backbone" in n})
    assert not torch.equal(weights["model.classifier.weight"], start["model.classifier.weight"])
    plain("sgd", frozen=True).check_weights(weights)
    assert {name.split(".")[1] for name in optimizer if name != "step"} == {"classifier"}
