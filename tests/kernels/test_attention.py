"""Attention: the formula, both backends, masks, bias, gradients, half types."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.conftest import DEVICE, needs_triton
from tests.numerics import assert_as_exact_as_eager, distance, largest
from vatt.kernels import attention, packed_attention

B, N, H, E = 2, 5, 3, 4


def inputs(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, N, H, E, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]])
    return q, k, v, mask, torch.randn(H, N, N, generator=g, dtype=torch.float64).to(dtype)


def formula(q, k, v, mask, bias, scale):
    """Item by item and head by head, leaving masked keys out."""
    out = torch.zeros_like(q)
    for b in range(B):
        seen = torch.ones(N, dtype=torch.bool) if mask is None else mask[b] != 0
        for h in range(H):
            scores = q[b, :, h] @ k[b, seen, h].T * scale
            if bias is not None:
                scores = scores + bias[h][:, seen]
            out[b, :, h] = scores.softmax(-1) @ v[b, seen, h]
    return out


@pytest.mark.parametrize("backend", ["cpu", "sdpa", "torch"])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1 / math.sqrt(E)])
def test_equals_the_formula(backend, with_mask, with_bias, scale):
    q, k, v, mask, bias = inputs()
    mask, bias = mask if with_mask else None, bias if with_bias else None
    out = attention(q, k, v, mask=mask, bias=bias, scale=scale, backend=backend)
    torch.testing.assert_close(out, formula(q, k, v, mask, bias, scale))


@pytest.mark.parametrize("backend", ["cpu", "sdpa", "torch"])
def test_gradients(backend):
    q, k, v, mask, bias = inputs()
    leaves = [x.requires_grad_() for x in (q, k, v, bias)]

    def function(q, k, v, bias):
        return attention(q, k, v, mask=mask, bias=bias, scale=0.5, backend=backend)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", ["sdpa", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_types_with_a_mask_stay_near(backend, dtype):
    """The official -1e9 is beyond float16; the mask must work there as well."""
    q, k, v, mask, bias = inputs(dtype)
    out, eager = (attention(q, k, v, mask=mask, bias=bias, scale=0.5, backend=name) for name in (backend, "torch"))
    exact = formula(*(x.double() for x in (q, k, v)), mask, bias.double(), 0.5)
    assert distance(eager, exact) <= 8 * torch.finfo(dtype).eps * largest(exact)
    assert_as_exact_as_eager(out, eager, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["sdpa", "torch", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_without_a_key_to_see_all_weights_are_equal(backend, dtype, with_bias):
    """In every type, and with scores so far apart that the official -1e9 would not swallow them. Gradients agree, too,
    but for those that sdpa leaves out."""
    if backend == "triton" and dtype in (torch.float64, torch.bfloat16):
        pytest.skip("not in Triton's interpreter")
    *qkv, _, bias = (x.to(DEVICE) for x in inputs(dtype))
    mask = torch.tensor([[0] * N, [1, 1, 0, 1, 0]], device=DEVICE)
    grad = torch.randn(B, N, H, E, generator=torch.Generator().manual_seed(9)).to(DEVICE, dtype)

    def run(name, kind, grad=grad):
        leaves = [x.to(kind).requires_grad_() for x in (*qkv, *([bias] if with_bias else []))]
        q, k, v, *rest = leaves
        far = torch.tensor([8.0, 1.0], device=DEVICE).to(kind)[:, None, None, None]
        out = attention(far * q, far * k, v, mask=mask, bias=rest[0] if rest else None, scale=1.0, backend=name)
        return dict(enumerate([out, *torch.autograd.grad(out, leaves, grad.to(kind))]))

    ours, eager, exact = run(backend, dtype), run("torch", dtype), run("torch", torch.float64)
    mean = qkv[2][0].double().mean(0, keepdim=True).expand(N, H, E)
    torch.testing.assert_close(exact[0][0], mean)
    assert distance(ours[0][0], mean) <= 4 * torch.finfo(dtype).eps * largest(mean)
    if backend == "sdpa":  # queries, keys and bias: as if nothing came back to the item
        seen = torch.cat([torch.zeros_like(grad[:1]), grad[1:]])
        eager, exact = (
            {**run("torch", kind, seen), 0: full[0], 3: full[3]}
            for kind, full in ((dtype, eager), (torch.float64, exact))
        )
    roundings = 64 if dtype == torch.float64 else 2  # in float64 eager is the exact one
    assert_as_exact_as_eager(ours, eager, exact, floor=roundings * torch.finfo(dtype).eps, scale=largest(exact))


def test_dropout_of_the_weights():
    q, k, v, _, _ = inputs(torch.float32)
    torch.manual_seed(0)
    _, weights = attention(q, k, v, scale=0.5, dropout_p=0.5, return_weights=True)
    _, full = attention(q, k, v, scale=0.5, return_weights=True)
    dropped = weights == 0
    assert 0.2 < dropped.float().mean() < 0.8
    assert torch.equal(weights[~dropped], 2 * full[~dropped])
    assert not torch.equal(attention(q, k, v, scale=0.5, dropout_p=0.5, backend="sdpa"), attention(q, k, v, scale=0.5))


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask", torch.ones(B, N + 1)), ("bias", torch.zeros(H, N, N + 1)), ("v_BNHE", torch.zeros(B, N, H, E + 1))],
)
def test_errors_name_the_argument(name, value):
    q, k, v, _, _ = inputs()
    arguments = {"q_BNHE": q, "k_BNHE": k, "v_BNHE": v, "scale": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name}: "):
        attention(**arguments)


def test_segments_below_zero_are_refused_though_their_sum_fits():
    with pytest.raises(ValueError, match="segments: expected counts and lengths of 0 or more"):
        packed_attention(torch.zeros(3, 3, 2, 4), ((-1, 3), (2, 3)), scale=1.0)
