"""Optimizers under an engine's conditions, and schedules beyond the golden ones."""

from __future__ import annotations

import math

import pytest
import torch

from vatt.optim import SGD, Adam, cosine, quarter_cosine, step_cosine


def adam_by_hand(w, grads, lr, b1, b2, eps):
    m = v = torch.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (v.sqrt() + eps)
    return w


def test_adam_epsilon_is_the_official_one():
    """A large epsilon, so that the two conventions differ much."""
    torch.manual_seed(0)
    start, grads = torch.randn(7), torch.randn(5, 7)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = dict(lr=0.1, eps=0.1, weight_decay=0.0)
    for optimizer, w in ((Adam([ours], **options), ours), (torch.optim.AdamW([theirs], **options), theirs)):
        for grad in grads:
            w.grad = grad.clone()
            optimizer.step()
        assert optimizer.param_groups[0]["eps"] == 0.1
    expected = adam_by_hand(start, grads, 0.1, 0.9, 0.999, 0.1)
    torch.testing.assert_close(ours.data, expected)
    assert (theirs.data - expected).abs().max() > 0.05


def test_adam_steps_partitions_that_replaced_its_parameters():
    """What ZeRO does: the group's parameters become one flat float32 partition."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    optimizer = Adam(weights, lr=0.1, eps=0.1)
    flat = torch.nn.Parameter(torch.cat([w.detach().flatten() for w in weights]))
    start = flat.detach().clone()
    optimizer.param_groups[0]["params"] = [flat]
    grads = torch.randn(3, 10)
    for grad in grads:
        flat.grad = grad.clone()
        optimizer.step()
    torch.testing.assert_close(flat.data, adam_by_hand(start, grads, 0.1, 0.9, 0.999, 0.1))


def test_adam_restores_epsilon_when_a_step_fails():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = Adam([weight], eps=0.5)

    def closure():
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["eps"] == 0.5


def test_sgd_keeps_the_rate_inside_the_velocity():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    for lr in (1.0, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    assert weight.item() == pytest.approx(1 - 1 - (0.5 + 0.1))
    with pytest.raises(ValueError, match="momentum: must be >= 0"):
        SGD([weight], momentum=-1)


def test_quarter_cosine_is_the_papers():
    rate = [quarter_cosine(s) for s in (0, 5000, 10000, 255000, 500000, 10**6)]
    assert rate[:3] == pytest.approx([0, 5e-5, 1e-4])
    assert rate[3] == pytest.approx(5e-5 + 5e-5 * math.cos(math.pi / 4))
    assert rate[4:] == pytest.approx([5e-5, 5e-5])


def test_clamped_ends():
    assert step_cosine(500000) == 5e-5
    assert math.isnan(step_cosine(500000, clamp=False))
    assert cosine(200, base=1.0, total_steps=100) == pytest.approx(0)
    assert cosine(200, base=1.0, total_steps=100, clamp=False) == pytest.approx(1)
    with pytest.raises(ValueError, match="must ascend from warmup_steps"):
        step_cosine(0, steps=(1, 2), warmup_steps=5)
    with pytest.raises(ValueError, match="equally many"):
        step_cosine(0, levels=(1.0,))
