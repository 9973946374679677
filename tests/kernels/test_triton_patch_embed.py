"""Patch embedding in Triton against plain PyTorch: three kinds of input, kept patches, positions and token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.conftest import (
    DEVICE,
    HALF,
    Case,
    check_compiled,
    check_half,
    check_layout,
    check_memory,
    check_reference,
    check_repeats,
    check_seeds,
    elementwise_keep,
    evaluate,
    few,
    needs_triton,
    randn,
)
from tests.numerics import assert_as_exact_as_eager
from vatt.kernels import patch_embed

pytestmark = needs_triton

# name: (shape of the input, patch, channels, patches); the sizes leave a remainder on some axes
INPUTS = {
    "bytes": ((2, 5, 9, 7, 3), (2, 4, 3), 3, 8),
    "video": ((2, 5, 9, 7, 3), (2, 4, 3), 3, 8),
    "waveform": ((3, 121), (7,), 1, 17),
    "spectrogram": ((2, 9, 11), (4, 5), 1, 4),
    "spectrogram with channels": ((2, 9, 11, 2), (4, 5), 2, 4),
    "one patch": ((1, 7), (7,), 1, 1),
    "patches of one": ((1, 33), (1,), 1, 33),
}
KEPT = {
    None: None,
    "shared": lambda B, N: torch.arange(N).flip(0)[: N // 2 + 1],
    "per item": lambda B, N: torch.stack([torch.arange(N).roll(b)[: N // 2 + 1] for b in range(B)]),
    "twice the same": lambda B, N: torch.tensor([0, N - 1, 0, N // 2, N - 1, 0]),
    "twice the same, per item": lambda B, N: torch.stack([torch.tensor([N - 1, b % N, N - 1]) for b in range(B)]),
    "none at all": lambda B, N: torch.zeros(0, dtype=torch.int64),
}


def signal(shape, kind):
    if kind == "bytes":
        numbers = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
        return numbers.to(DEVICE)
    return randn(*shape, seed=4)


def case(kind="video", kept=None, positions=True, token=True, bias=True, D=7, p=0.0, B=None):
    shape, patch, channels, N = INPUTS[kind]
    shape = shape if B is None else (B, *shape[1:])
    leaves = {"weight": randn(D, math.prod(patch) * channels), "bias": randn(D, seed=1) if bias else None}
    leaves["positions"] = randn(N, D, seed=2) if positions else None
    leaves["token"] = randn(D, seed=3) if token else None
    x = signal(shape, kind)
    index = None if kept is None else KEPT[kept](shape[0], N).to(DEVICE)

    def run(backend, weight, bias=None, **others):
        return patch_embed(x, weight, bias, patch, kept=index, **others, dropout_p=p, backend=backend)

    def plain(_backend, weight, bias=None, **others):
        """Dropout by the explicit mask: row = b * (K + token) + token + k, column = channel; the token is spared."""
        out = patch_embed(x, weight, bias, patch, kept=index, **others, backend="torch")
        factors = elementwise_keep(out.shape[:-1].numel(), D, p).view(out.shape).clone()
        factors[:, : int(token)] = 1
        return out * factors.to(out)

    return Case(run, {name: leaf for name, leaf in leaves.items() if leaf is not None}, plain if p > 0 else None)


# First, because a kernel that writes outside of its arrays may end the process in any other test.
CASES = {
    "video": case(),
    "bytes, kept, dropout": case("bytes", "twice the same, per item", p=0.3),
    "waveform, kept": case("waveform", "shared", D=17),
    "spectrogram, nothing around": case("spectrogram", None, False, False, False),
    "one patch": case("one patch", D=1, token=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    check_memory(CASES[name])


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kept", KEPT)
def test_equals_the_reference(kind, kept):
    check_reference(case(kind, kept))


@pytest.mark.parametrize("kept", [None, "twice the same, per item"])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_any_of_positions_token_and_bias(kept, positions, token, bias):
    check_reference(case("spectrogram", kept, positions, token, bias))


@pytest.mark.parametrize("D", [1, 48, 65])
@pytest.mark.parametrize("kind", ["bytes", "waveform"])
def test_widths(kind, D):
    check_reference(case(kind, "per item", D=D))


@pytest.mark.parametrize("kind", ["bytes", "waveform"])
@pytest.mark.parametrize("kept", [None, "shared"])
@pytest.mark.parametrize("token", [False, True])
def test_an_empty_batch(kind, kept, token):
    check_reference(case(kind, kept, token=token, B=0))


def test_an_empty_batch_with_own_indices():
    x, kept = randn(0, 121), torch.zeros(0, 4, dtype=torch.int64, device=DEVICE)
    assert patch_embed(x, randn(3, 7), None, (7,), kept=kept, backend="triton").shape == (0, 4, 3)


def test_many_items_share_positions():
    """More readers of a position than a step of the sum reads."""
    check_reference(case("one patch", B=21))
    check_reference(case("one patch", "twice the same", B=21))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
def test_bytes_are_normalised(value):
    x = torch.full((1, 4), value, dtype=torch.uint8, device=DEVICE)
    ours, eager = (patch_embed(x, torch.eye(4, device=DEVICE), None, (4,), backend=b) for b in ("triton", "torch"))
    exact = torch.full_like(ours, value / 127.5 - 1, dtype=torch.float64)
    assert_as_exact_as_eager(ours, eager, exact, floor=torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["bytes", "video", "waveform"])
@pytest.mark.parametrize("kept", [None, "twice the same, per item"])
def test_half_types_are_as_exact_as_plain_pytorch(dtype, kind, kept):
    check_half(case(kind, kept), dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_half_inputs(dtype):
    """Weights of one type, an input of another: rounded as plain PyTorch does."""
    x, weight = randn(2, 121), randn(5, 7)
    for kind, other in ((torch.float32, dtype), (dtype, torch.float32), (dtype, dtype)):
        ours, eager = (patch_embed(x.to(kind), weight.to(other), None, (7,), backend=b) for b in ("triton", "torch"))
        assert ours.dtype == other
        exact = patch_embed(x.to(kind).to(other).double(), weight.to(other).double(), None, (7,), backend="torch")
        assert_as_exact_as_eager(ours, eager, exact)


@pytest.mark.parametrize("kept", [None, "shared", "twice the same, per item"])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "waveform"])
def test_dropout_equals_the_explicit_mask(kind, kept, token):
    check_reference(case(kind, kept, token=token, p=0.3))


def test_dropout_of_everything_spares_the_token():
    ours = case(p=1.0)
    found = evaluate(ours)
    assert not found["output 0"][:, 1:].any()
    assert torch.equal(found["output 0"][:, 0], ours.leaves["token"].expand(2, -1))
    assert not any(found[f"gradient of {name}"].any() for name in ("weight", "bias", "positions"))
    assert found["gradient of token"].all()


def test_dropout_follows_the_generator():
    check_seeds(case(p=0.5))


def test_an_input_in_pieces():
    x, weight = randn(121, 3).T, randn(5, 7)
    assert not x.is_contiguous()
    ours = patch_embed(x, weight, None, (7,), backend="triton")
    assert torch.equal(ours, patch_embed(x.contiguous(), weight, None, (7,), backend="triton"))


@pytest.mark.parametrize("name", CASES)
def test_inputs_in_pieces(name):
    check_layout(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_repeats_bit_by_bit(name):
    check_repeats(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES)[:4])
def test_compiles_without_a_break(name):
    check_compiled(CASES[name])


@few
@given(
    patch=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    more=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    B=st.integers(0, 3),
    channels=st.sampled_from([None, 1, 3]),
    D=st.integers(1, 20),
    K=st.sampled_from([None, 0, 1, 5]),
    per_item=st.booleans(),
)
def test_any_shape(patch, more, B, channels, D, K, per_item):
    sizes = [side + extra for side, extra in zip(patch, more, strict=False)]
    N = math.prod(size // side for size, side in zip(sizes, patch, strict=True))
    x = randn(B, *sizes, *([channels] if channels else []))
    leaves = {"weight": randn(D, math.prod(patch) * (channels or 1), seed=1), "positions": randn(N, D, seed=2)}
    places = torch.Generator().manual_seed(3)
    kept = None if K is None else torch.randint(0, N, (B, K) if per_item else (K,), generator=places).to(DEVICE)

    def run(backend, weight, positions):
        return patch_embed(x, weight, None, patch, kept=kept, positions=positions, backend=backend)

    check_reference(Case(run, leaves))
