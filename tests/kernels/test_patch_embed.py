"""Patch embedding against a convolution, and what dropped patches cost."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.numerics import assert_as_exact_as_eager, distance, largest
from vatt.kernels import add_positions, patch_embed
from vatt.kernels.patch_embed.reference import gather_patches

# name: (shape of the input, patch, channels); the sizes leave a remainder on some axes
CASES = {
    "video": ((2, 5, 9, 7, 3), (2, 4, 3), 3),
    "waveform": ((3, 23), (4,), 1),
    "spectrogram": ((2, 9, 11), (4, 5), 1),
}
D = 6


def case(name, dtype=torch.float64):
    shape, patch, channels = CASES[name]
    g = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=g, dtype=torch.float64).to(dtype) * 2 - 1
    weight = torch.randn(D, math.prod(patch) * channels, generator=g, dtype=torch.float64).to(dtype)
    return x, weight, torch.randn(D, generator=g, dtype=torch.float64).to(dtype), patch


def convolved(x, weight, bias, patch):
    """The same through torch's convolution, which needs channels first."""
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(patch)]
    x = x.movedim(-1, 1) if x.ndim == 2 + len(patch) else x[:, None]
    kernel = weight.unflatten(1, (*patch, x.shape[1])).movedim(-1, 1)
    return conv(x, kernel, bias, stride=patch).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("name", CASES)
def test_equals_a_convolution(name):
    x, weight, bias, patch = case(name)
    torch.testing.assert_close(patch_embed(x, weight, bias, patch), convolved(x, weight, bias, patch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_half_types_stay_near(name, dtype):
    x, weight, bias, patch = case(name, dtype)
    out = patch_embed(x, weight, bias, patch)
    assert out.dtype == dtype
    exact = patch_embed(x.double(), weight.double(), bias.double(), patch)
    assert distance(out, exact) <= 4 * torch.finfo(dtype).eps * largest(exact)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("per_item", [False, True])
def test_kept_patches_are_the_chosen_rows(name, per_item):
    x, weight, bias, patch = case(name)
    everything = patch_embed(x, weight, bias, patch)
    B, N, _ = everything.shape
    g = torch.Generator().manual_seed(1)
    K = max(N // 2, 1)
    kept = torch.rand(B, N, generator=g).argsort(1)[:, :K] if per_item else torch.randperm(N, generator=g)[:K]
    positions, token = torch.randn(N, D, dtype=x.dtype), torch.randn(D, dtype=x.dtype)
    out = patch_embed(x, weight, bias, patch, kept=kept, positions=positions, token=token)
    rows = kept if per_item else kept.expand(B, K)
    expected = (everything + positions).gather(1, rows[..., None].expand(B, K, D))
    torch.testing.assert_close(out[:, 1:], expected)
    torch.testing.assert_close(out[:, 0], token.expand(B, D))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kept", [None, [1, 0], [[1, 0], [0, 1]]])
def test_gradients(name, kept):
    x, weight, bias, patch = case(name)
    x = x[:2]
    N = patch_embed(x, weight, bias, patch).shape[1]
    inputs = [v.requires_grad_() for v in (x, weight, bias, torch.randn(N, D, dtype=x.dtype), torch.randn(D).double())]
    index = None if kept is None else torch.tensor(kept)

    def function(x, weight, bias, positions, token):
        return patch_embed(x, weight, bias, patch, kept=index, positions=positions, token=token)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_uint8_equals_normalised_float(dtype):
    _, weight, bias, patch = case("video", dtype)
    raw = torch.randint(0, 256, CASES["video"][0], dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    normalised = (raw.double() / 127.5 - 1).to(dtype)
    exact = patch_embed(raw.double() / 127.5 - 1, weight.double(), bias.double(), patch)
    ours, eager = (patch_embed(x, weight, bias, patch) for x in (raw, normalised))
    assert_as_exact_as_eager(ours, eager, exact)


class Largest(TorchDispatchMode):
    """The largest floating-point tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.numel = max(self.numel, out.numel())
        return out


def test_dropped_patches_cost_nothing():
    """No float copy of more than the kept patches, and multiplications for these alone."""
    B, K, patch = 2, 3, (2, 8, 8)
    x = torch.randint(0, 256, (B, 8, 64, 64, 3), dtype=torch.uint8)
    P = math.prod(patch) * 3
    weight, bias = torch.randn(D, P), torch.randn(D)
    for count in (K, 2 * K):
        with FlopCounterMode(display=False) as flops, Largest() as largest:
            patch_embed(x, weight, bias, patch, kept=torch.randperm(256)[:count])
        assert flops.get_total_flops() == 2 * B * count * P * D
        assert largest.numel == B * count * P


@pytest.mark.parametrize("kept", [None, [5, 0, 0], [[1, 0, 2], [3, 3, 1]]])
@pytest.mark.parametrize("positions", [False, True])
def test_gathered_patches_are_those_of_the_signal(kept, positions):
    """What is already in rows gives the same bits: values, and every gradient."""
    x, weight, bias, patch = case("video", torch.float32)
    index = None if kept is None else torch.tensor(kept)
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    rows = gather_patches(x, patch, index)
    options = dict(kept=index, positions=torch.randn(8, D) if positions else None, token=torch.randn(D))
    whole, ours = (patch_embed(v, *leaves, patch, gathered=v is rows, **options) for v in (x, rows))
    assert torch.equal(ours, whole)
    grads = (torch.autograd.grad(out.square().sum(), leaves) for out in (whole, ours))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4, 72)), r"x: expected \(B, K, P\) for gathered patches"),
        (dict(x=torch.zeros(2, 3, 71)), r"x: expected \(B, K, P\) for gathered patches"),
        (dict(x=torch.zeros(2, 3, 144)), r"weight: expected \(D, 144\) for gathered patches"),
        (dict(kept=torch.zeros(4, dtype=torch.int64)), "kept: expected indices of 3 gathered patches"),
        (dict(kept=None), "positions: .* does not fit 3 patches"),
    ],
)
def test_errors_of_gathered_patches(change, message):
    _, weight, bias, patch = case("video", torch.float32)
    arguments = dict(x=torch.zeros(2, 3, 72), kept=torch.zeros(3, dtype=torch.int64), positions=torch.zeros(8, D))
    arguments |= change
    with pytest.raises(ValueError, match=message):
        patch_embed(arguments.pop("x"), weight, bias, patch, gathered=True, **arguments)


def test_dropout_spares_the_token():
    x, token = torch.ones(4, 50, D), torch.full((D,), 7.0)
    out = add_positions(x, positions=None, token=token, dropout_p=0.5)
    assert torch.equal(out[:, 0], token.expand(4, D))
    assert set(out[:, 1:].unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3)), "x: expected 4 or 5 dimensions"),
        (dict(x=torch.zeros(2, 5, 9, 7, 3, dtype=torch.int32)), "x: expected uint8 or floating point, got torch.int32"),
        (dict(x=torch.zeros(2, 1, 9, 7, 3)), "x: .* is smaller than one patch"),
        (dict(weight=torch.zeros(D, 5)), r"weight: expected \(D, 72\)"),
        (dict(bias=torch.zeros(D + 1)), "bias: expected"),
        (dict(kept=torch.zeros(5, 1, dtype=torch.int64)), "kept: expected"),
        (dict(kept=torch.zeros(2)), "kept: expected int64"),
        (dict(positions=torch.zeros(3, D)), "positions: .* does not fit"),
    ],
)
def test_errors_name_the_argument(change, message):
    x, weight, bias, patch = case("video", torch.float32)
    arguments = {"x": x, "weight": weight, "bias": bias, "patch": patch, **change}
    with pytest.raises(ValueError, match=message):
        patch_embed(**arguments)


@pytest.mark.parametrize("name", ["waveform", "video"])
def test_a_kept_patch_beyond_the_last_is_an_error_on_a_cpu(name):
    x, weight, bias, patch = case(name, torch.float32)
    N = patch_embed(x, weight, bias, patch).shape[1]
    with pytest.raises(IndexError):
        patch_embed(x, weight, bias, patch, kept=torch.tensor([0, N]))
