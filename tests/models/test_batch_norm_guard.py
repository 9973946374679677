"""A batch that is not finite leaves the running statistics as they were."""

from __future__ import annotations

import torch

from vatt.models.heads import BatchNorm


def test_running_statistics_survive_a_bad_batch():
    norm = BatchNorm(3).train()
    norm(torch.randn(8, 3))
    before = norm.running_mean.clone(), norm.running_var.clone()
    bad = torch.randn(8, 3)
    bad[2, 1] = float("nan")
    assert not torch.isfinite(norm(bad)).all()
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    norm(torch.randn(8, 3))
    assert not torch.equal(norm.running_mean, before[0])
