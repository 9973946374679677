"""The problems of a model, and processes that examine backends."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from tests.kernels.test_selection import problem
from vatt import kernel_selection
from vatt.kernel_selection import Workers, choose, problems_of
from vatt.kernels.registry import Problem, forget_decisions, listening
from vatt.kernels.selection import NotExamined, Selection, cache, select_backends
from vatt.kernels.timing import TooLong
from vatt.models.classifier import Classifier
from vatt.models.config import ClassifierConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

CPU = torch.device("cpu")


def pretraining(name):
    def make():
        config = preset(name)
        parts = {
            part: replace(getattr(config, part), dropout_rate=0.1) for part in ("video", "waveform", "text", "unified")
        }
        return Pretraining(replace(config, **parts))

    return make


def finetuning():
    config = preset("vatt-tiny")
    model = Classifier.from_config(ClassifierConfig(input=config.input, video=config.video, num_classes=5))
    return Finetuning(model, TargetConfig(mixup=0.2))


def real(batch):
    return {
        name: torch.randint(0, 200, x.shape, dtype=x.dtype)
        if not x.is_floating_point()
        else torch.rand(x.shape, dtype=x.dtype)
        for name, x in batch.items()
    }


def checkpointed():
    module = pretraining("vatt-tiny")()
    module.vatt.activation_checkpointing = True
    return module


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [checkpointed, pretraining("vatt-tiny"), pretraining("vatt-ma-tiny"), finetuning])
def test_the_problems_of_a_module_are_those_of_a_real_step(make, dtype):
    module = make().train()
    found = problems_of(module, module.empty_batch(2), 0, dtype=dtype)
    calls = {}
    module.to(dtype)
    with listening(lambda op, call: calls.update({Problem.of(op, call): None})):
        module(real(module.empty_batch(2)), 0)
    assert set(found) == set(calls)
    assert len(found) == len(set(found))
    assert dict(found[-1].facts)["gradient"]
    weights = next(module.parameters())
    assert weights.device == CPU


def test_recording_leaves_random_numbers_and_weights_alone():
    module = pretraining("vatt-tiny")().train()
    torch.manual_seed(1)
    before, state = torch.get_rng_state(), {name: x.clone() for name, x in module.state_dict().items()}
    problems_of(module, module.empty_batch(2), 0, dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, state[name]) for name, x in module.state_dict().items())


def test_what_was_chosen_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VATT_CACHE", str(tmp_path))
    first = choose([problem()], CPU)
    assert first.decisions[0].complete
    assert cache.load(CPU) == first
    monkeypatch.setattr(kernel_selection, "Here", lambda device: pytest.fail("all is known"))
    assert choose([problem()], CPU) == first
    other = Selection([replace(first.decisions[0], backend="torch")])
    assert choose([problem()], CPU, begun=other) == other
    assert cache.load(CPU) == first
    forget_decisions()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_model_that_is_told_its_backend_has_the_same_problems(backend):
    """That of engine.kernels may run on a GPU alone."""
    told, free = (Pretraining(preset("vatt-tiny"), name).train() for name in (backend, "auto"))
    batch = free.empty_batch(4)
    found, expected = (problems_of(module, batch, 0, dtype=torch.bfloat16) for module in (told, free))
    assert found == expected != []


def test_workers_are_started_once_each(monkeypatch):
    started = []

    def start(self, limit):
        started.append(f"process {len(started)}")
        if len(started) == 2:
            raise NotExamined("its process does not start")
        return started[-1]

    monkeypatch.setattr(Workers, "_start", start)
    with ExitStack() as stack:
        workers = Workers(CPU, stack, workers=3)
        workers.prepare(300)
        held = [workers._idle.get(block=False) for _ in range(3)]
    assert len(started) == 3
    assert {str(process) for process in held} == {"process 0", "process 2", "None"}


@pytest.mark.slow
def test_workers_outlive_what_hangs_and_what_dies(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("PLANT", "wrong,hangs,dies,slow")
    asked = problem()
    with ExitStack() as stack:
        two = Workers(CPU, stack, workers=2)
        two.prepare(300)
        assert {process.alive for process in (two._idle.get(), two._idle.get())} == {True}
        workers = Workers(CPU, stack, workers=1, modules="tests.kernels.planted")
        workers.prepare(300)
        workers.check(asked, "planted slow", 300)
        assert workers.time(asked, "planted slow", 300) > 50
        with pytest.raises(RuntimeError, match=r"WrongResult: output with dropout 0\.1: error 0\.05"):
            workers.check(asked, "planted wrong", 300)
        with pytest.raises(RuntimeError, match="ended with status 7"):
            workers.check(asked, "planted dies", 300)
        workers.check(asked, "sdpa", 300)
        with pytest.raises(TooLong, match="took longer than 5 s"):
            workers.check(asked, "planted hangs", 5)
        workers.check(asked, "torch", 300)
        workers.check(asked, "torch", 300)
        found = select_backends([asked], CPU, examiner=lambda: workers, seconds=300)
    assert found.decisions[0].verdicts["torch"].state == "timed"


@pytest.mark.slow
def test_workers_that_do_not_start_say_so(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with ExitStack() as stack:
        workers = Workers(torch.device("cuda"), stack, workers=1)
        with pytest.raises(NotExamined, match="its process does not start"):
            workers.check(problem(), "torch", 300)
