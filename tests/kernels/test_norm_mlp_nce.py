"""Norms, MLP and contrastive loss against their formulas; gradients; half types."""

from __future__ import annotations

import math

import pytest
import torch

from vatt.kernels import dense_gelu, layer_norm, mlp, nce, rms_norm
from vatt.kernels.nce import Rows

HALF = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer_norm_formula(x, weight, bias, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def rms_norm_formula(x, weight, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("dtype", [torch.float64, *HALF])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_norms(dtype, width):
    x, residual = randn(3, 4, width, dtype=dtype) + 3, randn(3, 4, width, dtype=dtype, seed=1)
    weight, bias = randn(width, dtype=dtype, seed=2), randn(width, dtype=dtype, seed=3)
    tolerance = dict(atol=16 * torch.finfo(dtype).eps, rtol=4 * torch.finfo(dtype).eps)
    for op, formula, parameters in (
        (layer_norm, layer_norm_formula, (weight, bias)),
        (rms_norm, rms_norm_formula, (weight,)),
    ):
        exact = [p.double() for p in parameters]
        torch.testing.assert_close(op(x, *parameters).double(), formula(x.double(), *exact), **tolerance)
        total, normed = op(x, *parameters, residual=residual)
        assert torch.equal(total, x + residual)
        torch.testing.assert_close(normed.double(), formula(total.double(), *exact), **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_statistics_are_float32(dtype):
    """Far from zero the squares of a half type overflow or cancel; float32 statistics do not."""
    x = torch.tensor([[2000.0, 2008.0, 2016.0, 2024.0]], dtype=dtype)
    weight, bias = torch.ones(4, dtype=dtype), torch.zeros(4, dtype=dtype)
    expected = layer_norm_formula(x.double(), 1.0, 0.0)
    torch.testing.assert_close(layer_norm(x, weight, bias).double(), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(rms_norm(x, weight).double(), rms_norm_formula(x.double(), 1.0), atol=0.01, rtol=0)


def test_norm_gradients():
    leaves = [randn(2, 3, 5, seed=i).requires_grad_() for i in range(2)] + [randn(5, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, r, w: rms_norm(x, w, residual=r), leaves)
    leaves.append(randn(5, seed=3).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, r, w, b: layer_norm(x, w, b, residual=r), leaves)


def test_mlp():
    x, w1, b1, w2, b2 = randn(2, 3, 4), randn(6, 4, seed=1), randn(6, seed=2), randn(5, 6, seed=3), randn(5, seed=4)
    hidden = x @ w1.T + b1
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(mlp(x, w1, b1, w2, b2), hidden @ w2.T + b2)
    torch.testing.assert_close(mlp(x, w1, None, w2, None), mlp(x, w1, 0 * b1, w2, 0 * b2))
    assert torch.autograd.gradcheck(mlp, [v.requires_grad_() for v in (x, w1, b1, w2, b2)])
    with pytest.raises(ValueError, match=r"x: expected \(\.\.\., 4\)"):
        mlp(randn(2, 3), w1, b1, w2, b2)


@pytest.mark.parametrize("name", ["bias_in", "bias_out"])
def test_a_bias_that_would_broadcast_is_refused(name):
    shapes = {"x": (3, 4), "weight_in": (6, 4), "bias_in": (6,), "weight_out": (4, 6), "bias_out": (4,)}
    leaves = {each: randn(*shape) for each, shape in shapes.items()}
    for shape in ((1,), (3, 1)):
        with pytest.raises(ValueError, match=rf"{name}: expected \({shapes[name][0]},\)"):
            mlp(**leaves | {name: randn(*shape)})
        with pytest.raises(ValueError, match=r"^bias: expected \(6,\)"):
            dense_gelu(randn(3, 4), randn(6, 4), randn(*shape))


def rows(items, candidates, seed, valid=None, offset=0, local=None):
    """Normalised rows of all ranks, of which this rank holds ``local`` from ``offset`` on."""
    full = torch.nn.functional.normalize(randn(items, candidates, 6, seed=seed), dim=-1)
    part = slice(offset, offset + (local or items))
    mask = None if valid is None else torch.tensor(valid, dtype=torch.float64)
    return Rows(full[part], full, None if mask is None else mask[part], mask)


def by_hand(first, second, temperature, kind, offset):
    """Sums of exponentials, item by item, without the invalid ones."""
    losses = []
    for i in range(first.local.shape[0]):
        ok1 = torch.ones(len(first.all)) if first.mask_all is None or kind == "asymmetric" else first.mask_all
        ok2 = torch.ones(len(second.all)) if second.mask_all is None else second.mask_all
        if not (ok1[offset + i] and ok2[offset + i]):
            losses.append(torch.tensor(0.0, dtype=torch.float64))
            continue
        expo = lambda a, b: (a @ b.T / temperature).exp().sum()  # noqa: E731
        positive = expo(first.local[i], second.local[i])
        forward = sum(expo(first.local[i], second.all[j]) for j in range(len(ok2)) if ok2[j])
        backward = sum(expo(second.local[i], first.all[j]) for j in range(len(ok1)) if ok1[j])
        if kind == "asymmetric":
            losses.append((forward + backward).log() - positive.log())
        else:
            losses.append(forward.log() + backward.log() - 2 * positive.log())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("offset", [0, 3])
def test_nce_equals_sums_of_exponentials(kind, offset):
    first, second = rows(6, 1, 0, None, offset, 3), rows(6, 4, 1, [1, 0, 1, 1, 1, 0], offset, 3)
    loss = nce(first, second, temperature=0.5, kind=kind)
    valid = second.mask.sum()
    torch.testing.assert_close(loss, by_hand(first, second, 0.5, kind, offset) * 3 / valid)


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
def test_nce_gradients(kind):
    leaves = [randn(3, 2, 4, seed=0).requires_grad_(), randn(6, 2, 4, seed=1).requires_grad_()]
    others = [randn(3, 1, 4, seed=2).requires_grad_(), randn(6, 1, 4, seed=3).requires_grad_()]
    mask = torch.tensor([1.0, 0, 1, 1, 1, 1], dtype=torch.float64)

    def function(local, everywhere, local2, everywhere2):
        first, second = Rows(local2, everywhere2), Rows(local, everywhere, mask[:3], mask)
        return nce(first, second, temperature=0.5, kind=kind)

    assert torch.autograd.gradcheck(function, leaves + others)


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("dtype", HALF)
def test_nce_without_a_valid_item_is_zero(kind, dtype):
    local = randn(3, 1, 4, dtype=dtype).requires_grad_()
    other = randn(3, 2, 4, dtype=dtype, seed=1)
    mask = torch.zeros(3, dtype=dtype)
    loss = nce(Rows(local, local), Rows(other, other, mask, mask), temperature=0.5, kind=kind)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(local.grad, torch.zeros_like(local))


def test_nce_errors_name_the_argument():
    first, second = rows(3, 1, 0), rows(4, 1, 1)
    with pytest.raises(ValueError, match="second: 4 items, but first has 3"):
        nce(first, second, temperature=0.5)
    with pytest.raises(ValueError, match="kind: 'x' is not one of"):
        nce(first, first, temperature=0.5, kind="x")
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature: expected more than 0"):
            nce(first, first, temperature=temperature)
    with pytest.raises(ValueError, match=r"second\.mask: expected \(3,\)"):
        nce(first, Rows(first.local, first.all, torch.ones(2), torch.ones(3)), temperature=0.5)


def test_the_contrastive_loss_runs_in_float32_under_autocast():
    first, second = (Rows(x, x) for x in (randn(6, 1, 16, dtype=torch.float32), randn(6, 1, 16, dtype=torch.float32)))
    near = Rows(second.local + 0.01, second.all + 0.01)
    wanted = nce(first, near, temperature=0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nce(first, near, temperature=0.07), wanted)
