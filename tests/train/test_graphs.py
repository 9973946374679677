"""CUDA graphs: what is refused and why, and how batches come in and losses go out; under DeepSpeed in test_engine.py.
No GPU is here: capture.py stands in for PyTorch's capture."""

from __future__ import annotations

import pytest
import torch

from tests.train.capture import Capture
from tests.train.engine_job import batch_of, labelled_batch, small_classifier, small_pretraining
from train.config.pretraining import PretrainConfig
from train.config.sections import EngineConfig, OptimConfig
from train.core import graphs
from train.core.build import open_run
from train.core.command import Job
from train.core.engine import Engine
from train.core.graphs import Graphed, refusals
from train.core.ranks import RankContext
from vatt.config import ConfigError
from vatt.optim import SGD

CUDA = torch.device("cuda", 0)


def trained(make, batch_of, capture=None, steps=3):
    """Losses of some steps, and the state after them; with graphs if there is a ``capture``."""
    module = make().train()
    module.register_forward_pre_hook(lambda module, inputs: None)  # as DeepSpeed does
    if capture:
        Graphed(module, capture)
    torch.manual_seed(5)
    optimizer = SGD([p for p in module.parameters() if p.requires_grad], lr=0.01)
    log = []
    for step in range(steps):
        batch = batch_of(step)
        losses = module(batch | module.draw(batch, step), step)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        log.append({name: value.item() for name, value in losses.items()})
    return log, module.state_dict()


MODULES = {
    "vatt-tiny": (small_pretraining, lambda step: batch_of(step, False)),
    "vatt-ma-tiny": (lambda: small_pretraining("vatt-ma-tiny"), lambda step: batch_of(step, False)),
    "classifier": (small_classifier, labelled_batch),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_graph_gives_the_same_losses_weights_and_statistics(name):
    """Dropout and DropToken are new in each replay, and those of the same run without graphs."""
    capture = Capture()
    expected, found = trained(*MODULES[name]), trained(*MODULES[name], capture)
    assert found[0] == expected[0]
    assert len({losses["loss"] for losses in found[0]}) == 3
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(value, expected[1][key]) for key, value in found[1].items())
    assert (capture.captures, capture.replays) == (1, 3)


def test_other_shapes_and_evaluation_run_without():
    capture, module = Capture(), small_classifier().train()
    Graphed(module, capture)
    whole = labelled_batch(0)
    half = {name: value[:4] for name, value in whole.items()}
    for batch in (whole, half, whole):
        assert module(batch | module.draw(batch, 0), 0)["loss"].requires_grad
    module.eval()(whole, 0)
    assert (capture.captures, capture.replays) == (1, 2)


@pytest.mark.parametrize("takes_mode", [False, True])
def test_a_capture_does_not_mind_other_threads(monkeypatch, takes_mode):
    """NCCL's watchdog asks the driver for something at any time. Newer versions of PyTorch take the mode."""
    modes, graph = [], lambda graph, pool=None, capture_error_mode="global": modes.append(capture_error_mode)

    def plain(passes, inputs, allow_unused_input):
        torch.cuda.graph("forward", pool=0)
        return passes

    def newer(passes, inputs, allow_unused_input, capture_error_mode="global"):
        torch.cuda.graph("forward", pool=0, capture_error_mode=capture_error_mode)
        return passes

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", newer if takes_mode else plain)
    assert graphs.capture("passes", (), allow_unused_input=True) == "passes"
    assert modes == ["thread_local"]
    assert torch.cuda.graph is graph


def test_evaluation_before_training_captures_nothing():
    capture, module = Capture(), small_classifier().eval()
    Graphed(module, capture)
    module(labelled_batch(0), 0)
    assert capture.captures == 0


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("offload", [False, True])
def test_stages_without_hooks_in_the_passes_are_taken(zero, offload):
    config = EngineConfig(zero=zero, offload_optimizer=offload and zero > 0)
    assert refusals(config, CUDA, 1, collectives=True) == []
    assert refusals(config, CUDA, 8, collectives=False) == []


@pytest.mark.parametrize(
    ("engine", "device", "ranks", "reason"),
    [
        ({}, "cpu", 1, "no CUDA device"),
        ({"zero": 3}, "cuda", 1, "zero 3 gathers and frees"),
        ({}, "cuda", 2, "talks to the other 1 ranks"),
        ({"gradient_accumulation": 2}, "cuda", 1, "would overwrite the gradients"),
        ({"contrastive_parts": 2}, "cuda", 1, "pass the backbones twice"),
        ({"activation_checkpointing": True}, "cuda", 1, "state of the random generator"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_reason(engine, device, ranks, reason):
    (found,) = refusals(EngineConfig(**engine), torch.device(device), ranks, collectives=True)
    assert reason in found


def test_who_asks_for_graphs_in_vain_is_told_at_the_start(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    config = EngineConfig(cuda_graphs=True, activation_checkpointing=True)
    with pytest.raises(
        ConfigError, match=r"engine\.cuda_graphs: this run has no CUDA device; activation_checkpointing"
    ):
        Engine(small_pretraining(), config, OptimConfig(), 8, torch.device("cpu"))


def test_they_are_told_before_there_is_a_folder_or_a_sample(tmp_path):
    config = PretrainConfig(engine=EngineConfig(cuda_graphs=True, gradient_accumulation=2))
    job = Job(config, tmp_path / "run", resume=False, sample=True)
    with pytest.raises(ConfigError, match=r"^engine\.cuda_graphs: this run has no CUDA device; the parts of an"):
        open_run(job, "sample", RankContext(0, 1, torch.device("cpu")))
    assert not job.out.exists()
