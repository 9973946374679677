"""Batch norm: the running statistics in half types and after a batch that is not finite, and the biased variance."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_modules_keep_float32_running_statistics(dtype):
    torch.manual_seed(0)
    norm = BatchNorm(4)
    norm(torch.randn(64, 4) + 1)
    before = norm.running_mean.clone()
    norm.to(dtype)
    assert norm.weight.dtype == dtype
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    assert torch.equal(norm.running_mean, before)  # not rounded on the way
    out = norm(torch.randn(64, 4).to(dtype))
    assert out.dtype == dtype
    assert norm.running_mean.dtype == torch.float32
    assert not torch.equal(norm.running_mean, before)


def test_batch_norm_uses_the_biased_variance():
    norm, x = BatchNorm(3, momentum=0.9), torch.randn(5, 3, dtype=torch.float64)
    out = norm(x)
    torch.testing.assert_close(out, (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(norm.running_var, (0.9 + 0.1 * x.var(0, correction=0)).float())
    torch.testing.assert_close(norm.running_mean, (0.1 * x.mean(0)).float())
    double = BatchNorm(3).double()
    assert torch.autograd.gradcheck(double, [torch.randn(4, 3, dtype=torch.float64, requires_grad=True)])
