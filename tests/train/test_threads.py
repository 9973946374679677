"""Threads of PyTorch on a CPU: they decide the order of sums, so a run keeps them."""

from __future__ import annotations

import pytest
import torch

from train.config.pretraining import PretrainConfig
from train.core import ranks as ranks_module
from train.core.build import seed_process
from train.core.ranks import RankContext


@pytest.mark.parametrize(
    ("wanted", "cores", "ranks", "taken"),
    [(0, 16, 1, 15), (0, 16, 2, 7), (0, 1, 1, 1), (0, 2, 4, 1), (5, 16, 1, 5), (12, 16, 2, 8)],
)
@pytest.mark.parametrize("workers", [0, 9])
def test_threads_follow_cores_and_not_reading_processes(monkeypatch, capsys, wanted, cores, ranks, taken, workers):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(ranks_module, "cores", lambda: cores)
    config = PretrainConfig()
    config.engine.threads, config.data.workers = wanted, workers
    seed_process(config, RankContext(0, ranks, torch.device("cpu")))
    assert given == [taken]
    assert config.engine.threads == taken  # goes into config.json, and a resumed run begins with it
    assert ("engine.threads: 8 in place of 12" in capsys.readouterr().out) == (wanted == 12)


def test_a_gpu_run_leaves_them_alone(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: pytest.fail("set"))
    config = PretrainConfig()
    seed_process(config, RankContext(0, 1, torch.device("cuda", 0)))
    assert config.engine.threads == 0
