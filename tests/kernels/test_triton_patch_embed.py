"""Patch embedding in Triton against plain PyTorch: three kinds of input, kept patches, positions and token."""

from __future__ import annotations

import math
import re
from importlib import import_module

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
    check_identical,
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
from vatt.kernels import BackendError, patch_embed
from vatt.kernels.patch_embed.reference import gather_patches

pytestmark = needs_triton

BACKENDS = ["triton", "gather"]

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


def case(kind="video", kept=None, positions=True, token=True, bias=True, D=7, p=0.0, B=None, gathered=False):
    shape, patch, channels, N = INPUTS[kind]
    shape = shape if B is None else (B, *shape[1:])
    leaves = {"weight": randn(D, math.prod(patch) * channels), "bias": randn(D, seed=1) if bias else None}
    leaves["positions"] = randn(N, D, seed=2) if positions else None
    leaves["token"] = randn(D, seed=3) if token else None
    x = signal(shape, kind)
    index = None if kept is None else KEPT[kept](shape[0], N).to(DEVICE)
    if gathered:
        x = gather_patches(x, patch, index)

    def run(backend, weight, bias=None, **others):
        return patch_embed(
            x, weight, bias, patch, kept=index, **others, dropout_p=p, gathered=gathered, backend=backend
        )

    def plain(_backend, weight, bias=None, **others):
        """Dropout by the explicit mask: row = b * (K + token) + token + k, column = channel; the token is spared."""
        out = patch_embed(x, weight, bias, patch, kept=index, **others, gathered=gathered, backend="torch")
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
    "gathered, dropout": case("bytes", "twice the same, per item", p=0.3, gathered=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory(backend, name):
    check_memory(CASES[name], backend)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, kind, kept):
    check_reference(case(kind, kept), backend)


@pytest.mark.parametrize("kept", [None, "twice the same, per item"])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_of_positions_token_and_bias(backend, kept, positions, token, bias):
    check_reference(case("spectrogram", kept, positions, token, bias), backend)


@pytest.mark.parametrize("D", [1, 48, 65])
@pytest.mark.parametrize("kind", ["bytes", "waveform"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_widths(backend, kind, D):
    check_reference(case(kind, "per item", D=D), backend)


@pytest.mark.parametrize("kind", ["bytes", "waveform"])
@pytest.mark.parametrize("kept", [None, "shared"])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch(backend, kind, kept, token):
    check_reference(case(kind, kept, token=token, B=0), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_with_own_indices(backend):
    x, kept = randn(0, 121), torch.zeros(0, 4, dtype=torch.int64, device=DEVICE)
    assert patch_embed(x, randn(3, 7), None, (7,), kept=kept, backend=backend).shape == (0, 4, 3)


@pytest.mark.parametrize("kind", ["bytes", "waveform"])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gathered_patches_give_the_same_bits(backend, kind, kept):
    """As the whole signal: all sums have the same order."""
    whole, ours = (evaluate(case(kind, kept, gathered=gathered), backend) for gathered in (False, True))
    check_identical(ours, whole)


@pytest.mark.parametrize("kept", [None, "shared"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gathered_patches_without_positions(backend, kept):
    check_reference(case("bytes", kept, positions=False, gathered=True), backend)
    check_reference(case("bytes", kept, positions=False, gathered=True, B=0), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_items_share_positions(backend):
    """More readers of a position than a step of the sum reads."""
    check_reference(case("one patch", B=21), backend)
    check_reference(case("one patch", "twice the same", B=21), backend)


@pytest.mark.parametrize("name", ["bytes, kept, dropout", "waveform, kept"])
def test_patches_of_large_batches_are_gathered_again(name, monkeypatch):
    """In the backward pass: the same bits, and nothing of their size is kept."""
    expected = evaluate(CASES[name], "gather")
    monkeypatch.setattr(import_module("vatt.kernels.patch_embed.gather"), "KEPT_BYTES", 0)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        check_identical(evaluate(CASES[name], "gather"), expected)
    (M, P), shapes = (expected["output 0"].shape[:2].numel(), CASES[name].leaves["weight"].shape[1]), set(saved)
    assert (0, P) in shapes
    assert (M, P) not in shapes


def test_the_backend_without_a_signal_gradient_says_so():
    x = randn(1, 7).requires_grad_()
    for backend in BACKENDS:
        with pytest.raises(BackendError, match=f"{backend}.*gives no gradient of the input"):
            patch_embed(x, randn(3, 7), None, (7,), backend=backend)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_bytes_as_subnormal_numbers(kind):
    """What the assembly of `centred` computes, which the interpreter does not run: two bytes are the bits of subnormal
    numbers, and one multiply-add, which rounds once, gives each byte minus 127.5 over a power of two, exactly."""
    from vatt.kernels.patch_embed import triton_kernels

    code = {torch.bfloat16: "BYTES_TO_BFLOAT16", torch.float16: "BYTES_TO_FLOAT16"}[kind]
    words = re.findall(r"mov\.b32 \w+, 0x([0-9A-F]{4})([0-9A-F]{4});", getattr(triton_kernels, code).value)
    assert [low for low, _ in words] == [high for _, high in words]
    factor, shift = (torch.tensor(int(low, 16) - ((int(low, 16) >> 15) << 16), dtype=torch.int16) for low, _ in words)
    numbers = torch.arange(256, dtype=torch.int16).view(kind).double()
    exact = numbers * factor.view(kind).double() + shift.view(kind).double()
    assert torch.equal(exact * triton_kernels.SPREAD[kind], torch.arange(256) - 127.5)
    assert torch.equal(exact.to(kind).double(), exact)


def test_starts_past_two_to_the_31():
    """Of a signal that nobody holds: items of 2^31 numbers."""
    from vatt.kernels.patch_embed.triton_kernels import patch_embed_starts

    B, K, GH, GW, stride_b, stride_t, stride_h = 3, 2, 2, 5, 1 << 31, 1 << 16, 1 << 8
    kept = torch.tensor([[0, 19], [7, 3], [11, 19]], device=DEVICE)
    starts = torch.zeros(16, dtype=torch.int64, device=DEVICE)
    sides = dict(PT=4, PH=16, PW=48, TOKEN=1, KEPT=True, PER_ITEM=True, ALIGN=16, BLOCK=16)
    patch_embed_starts[(1,)](kept, starts, 9, K, GH, GW, stride_b, stride_t, stride_h, 16, **sides)
    items = torch.arange(B, device=DEVICE)[:, None] * stride_b
    t, h, w = kept // (GH * GW), kept // GW % GH, kept % GW
    expected = torch.full((B, 1 + K), -1, device=DEVICE)
    expected[:, 1:] = (items + t * 4 * stride_t + h * 16 * stride_h + w * 48) // 16
    assert torch.equal(starts, torch.cat([expected.flatten(), expected.new_full((7,), -1)]))


@pytest.mark.parametrize(
    ("tiles", "steps", "splits"),
    [(144, 785, 5), (192, 785, 4), (6, 601, 41), (264, 785, 1), (1, 1, 1), (144, 0, 1), (5000, 785, 1)],
)
def test_parts_of_the_weight_gradient_fill_waves(tiles, steps, splits):
    """264 programs run at a time on an H100: nine tenths of them have work, with as few parts as that takes."""
    from vatt.kernels.patch_embed.triton_launch import split_count

    assert split_count("sm90", tiles, steps) == splits


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_are_normalised(backend, value):
    x = torch.full((1, 4), value, dtype=torch.uint8, device=DEVICE)
    ours, eager = (patch_embed(x, torch.eye(4, device=DEVICE), None, (4,), backend=b) for b in (backend, "torch"))
    exact = torch.full_like(ours, value / 127.5 - 1, dtype=torch.float64)
    assert_as_exact_as_eager(ours, eager, exact, floor=torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["bytes", "video", "waveform"])
@pytest.mark.parametrize("kept", [None, "twice the same, per item"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_types_are_as_exact_as_plain_pytorch(backend, dtype, kind, kept):
    check_half(case(kind, kept), dtype, backend)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_inputs(backend, dtype):
    """Weights of one type, an input of another: rounded as plain PyTorch does."""
    x, weight = randn(2, 121), randn(5, 7)
    for kind, other in ((torch.float32, dtype), (dtype, torch.float32), (dtype, dtype)):
        ours, eager = (patch_embed(x.to(kind), weight.to(other), None, (7,), backend=b) for b in (backend, "torch"))
        assert ours.dtype == other
        exact = patch_embed(x.to(kind).to(other).double(), weight.to(other).double(), None, (7,), backend="torch")
        assert_as_exact_as_eager(ours, eager, exact)


@pytest.mark.parametrize("kept", [None, "shared", "twice the same, per item"])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "waveform"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_equals_the_explicit_mask(backend, kind, kept, token):
    check_reference(case(kind, kept, token=token, p=0.3), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_of_everything_spares_the_token(backend):
    ours = case(p=1.0)
    found = evaluate(ours, backend)
    assert not found["output 0"][:, 1:].any()
    assert torch.equal(found["output 0"][:, 0], ours.leaves["token"].expand(2, -1))
    assert not any(found[f"gradient of {name}"].any() for name in ("weight", "bias", "positions"))
    assert found["gradient of token"].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_follows_the_generator(backend):
    check_seeds(case(p=0.5), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_input_in_pieces(backend):
    x, weight = randn(121, 3).T, randn(5, 7)
    assert not x.is_contiguous()
    ours = patch_embed(x, weight, None, (7,), backend=backend)
    assert torch.equal(ours, patch_embed(x.contiguous(), weight, None, (7,), backend=backend))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_in_pieces(backend, name):
    check_layout(CASES[name], backend)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_repeats_bit_by_bit(backend, name):
    check_repeats(CASES[name], backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES)[:4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_break(backend, name):
    check_compiled(CASES[name], backend)


@few
@given(
    backend=st.sampled_from(BACKENDS),
    patch=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    more=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    B=st.integers(0, 3),
    channels=st.sampled_from([None, 1, 3]),
    D=st.integers(1, 20),
    K=st.sampled_from([None, 0, 1, 5]),
    per_item=st.booleans(),
)
def test_any_shape(backend, patch, more, B, channels, D, K, per_item):
    sizes = [side + extra for side, extra in zip(patch, more, strict=False)]
    N = math.prod(size // side for size, side in zip(sizes, patch, strict=True))
    x = randn(B, *sizes, *([channels] if channels else []))
    leaves = {"weight": randn(D, math.prod(patch) * (channels or 1), seed=1), "positions": randn(N, D, seed=2)}
    places = torch.Generator().manual_seed(3)
    kept = None if K is None else torch.randint(0, N, (B, K) if per_item else (K,), generator=places).to(DEVICE)

    def run(backend, weight, positions):
        return patch_embed(x, weight, None, patch, kept=kept, positions=positions, backend=backend)

    check_reference(Case(run, leaves), backend)
