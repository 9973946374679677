"""Flash attention in Triton against plain PyTorch: dense batches and packed sequences."""

from __future__ import annotations

import math
from itertools import accumulate

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
    evaluate,
    few,
    needs_triton,
    randn,
    seed_drawn,
)
from tests.numerics import largest
from vatt.kernels import attention, packed_attention
from vatt.kernels.dropout import keep_scale, tile_keep_mask

pytestmark = needs_triton

SEVERAL = ((2, 3), (1, 17), (1, 1), (1, 5))


def mask_of(kind, items, length):
    """``kind``: None, "some" (a third is hidden), "row" (some, and all keys of the first item), "all"."""
    if kind is None:
        return None
    mask = (randn(items, length, seed=7) > -0.4).long()
    mask[:, :1] = 1
    if kind == "row":
        mask[:1] = 0
    return torch.zeros_like(mask) if kind == "all" else mask


def needs_formula(mask, p):
    """Where the reference is no oracle: it draws another dropout mask and, in float64, lowered scores keep their
    differences."""
    return p > 0 or mask in ("row", "all")


def dense(B=2, N=17, H=2, E=16, mask=None, bias=False, scale=None, p=0.0):
    leaves = {f"{name}_BNHE": randn(B, N, H, E, seed=seed) for seed, name in enumerate("qkv")}
    if bias:
        leaves["bias"] = randn(H, N, N, seed=3)
    options = dict(mask=mask_of(mask, B, N), scale=1 / math.sqrt(E) if scale is None else scale, dropout_p=p)

    def run(backend, **leaves):
        return attention(**leaves, **options, backend=backend)

    def plain(_backend, q_BNHE, k_BNHE, v_BNHE, bias=None):
        qkv_T3HE = torch.stack([q_BNHE, k_BNHE, v_BNHE], dim=2).flatten(0, 1)
        mask_T = None if options["mask"] is None else options["mask"].flatten()
        return formula(qkv_T3HE, ((B, N),), mask_T, bias, options["scale"], p).unflatten(0, (B, N))

    return Case(run, leaves, plain if B * N and needs_formula(mask, p) else None)


def packed(segments=SEVERAL, H=1, E=16, mask=None, bias=False, scale=None, p=0.0, bounds=False, masked=None):
    """``bounds``: given as cu_seqlens; ``masked``: which segments the mask concerns."""
    lengths = [length for count, length in segments for _ in range(count)]
    leaves = {"qkv_T3HE": randn(sum(lengths), 3, H, E)}
    if bias:
        leaves["bias"] = randn(H, max(lengths), max(lengths), seed=3)
    masks = [mask_of(mask if i == 0 else "some", 1, length)[0] for i, length in enumerate(lengths) if mask]
    options = dict(
        mask=torch.cat(masks) if masks else None, scale=1 / math.sqrt(E) if scale is None else scale, dropout_p=p
    )
    packing = dict(cu_seqlens=[0, *accumulate(lengths)]) if bounds else dict(segments=segments, masked=masked)

    def run(backend, **leaves):
        return packed_attention(**leaves, **packing, **options, backend=backend)

    def plain(_backend, qkv_T3HE, bias=None):
        assert masked is None
        return formula(qkv_T3HE, segments, options["mask"], bias, options["scale"], p)

    return Case(run, leaves, plain if sum(lengths) and needs_formula(mask, p) else None)


def formula(qkv_T3HE, segments, mask, bias, scale, p):
    """Packed attention, sequence by sequence, with the dropout mask of the kernels on its weights."""
    T, _, H, _ = qkv_T3HE.shape
    outs, first = [], 0
    for length in (length for count, length in segments for _ in range(count)):
        here = slice(first, first + length)
        q, k, v = qkv_T3HE[here].unbind(1)
        scores_HNN = torch.einsum("nhe,mhe->hnm", q, k) * scale + (0 if bias is None else bias)
        if mask is not None and mask[here].any():
            scores_HNN = scores_HNN.masked_fill(mask[here] == 0, -math.inf)
        elif mask is not None:
            # In float32 scores that are lowered by 1e9 lose their differences; their gradients do not.
            scores_HNN = scores_HNN - scores_HNN.detach()
        weights_HNN = scores_HNN.softmax(-1)
        if p > 0:
            tokens, firsts_H = torch.arange(length, device=DEVICE), torch.arange(H, device=DEVICE) * T + first
            kept = tile_keep_mask(seed_drawn(), firsts_H[:, None, None], tokens[:, None], tokens, p)
            weights_HNN = weights_HNN * kept * keep_scale(p)
        outs.append(torch.einsum("hnm,mhe->nhe", weights_HNN, v))
        first += length
    return torch.cat(outs)


# First, because a kernel that writes outside of its arrays may end the process in any other test.
CASES = {
    "dense": dense(B=1, N=17, mask="some"),
    "dense, bias, dropout": dense(B=1, E=24, bias=True, mask="some", p=0.3),
    "packed": packed(H=2),
    "packed, mask, dropout": packed(mask="some", p=0.3, E=7),
    "packed, bias": packed(((3, 7),), bias=True),
    "packed, some masked": packed(((2, 3), (1, 17)), mask="some", masked=(True, False)),
    "one token": packed(((1, 1),), E=1, H=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    check_memory(CASES[name])


@pytest.mark.parametrize(("N", "E"), [(1, 24), (2, 24), (17, 24), (33, 24), (2, 16), (17, 64)])
@pytest.mark.parametrize(("mask", "bias"), [(None, False), ("some", True)])
def test_equals_the_reference(N, E, mask, bias):
    check_reference(dense(N=N, H=1, E=E, mask=mask, bias=bias))


@pytest.mark.parametrize(("mask", "bias"), [("some", False), (None, True)])
def test_mask_or_bias_alone(mask, bias):
    check_reference(dense(mask=mask, bias=bias))


@pytest.mark.parametrize("E", [1, 7, 128])
def test_other_head_dims(E):
    check_reference(dense(B=1, H=1, E=E))


@pytest.mark.parametrize("H", [1, 3])
def test_heads_and_the_scale_of_t5(H):
    check_reference(dense(H=H, scale=1.0, bias=True, mask="some"))


def test_more_items_than_programs_of_the_bias_gradient():
    from vatt.kernels.attention.triton_launch import BIAS_PROGRAMS

    check_reference(dense(B=BIAS_PROGRAMS + 3, N=3, H=1, bias=True))


@pytest.mark.parametrize("length", [64, 65, 130])
def test_long_sequences(length):
    """Beyond 64 tokens the interpreter has blocks of 64, and steps of 32 behind the last whole one."""
    check_reference(packed(((1, length),), H=1, mask="some", bias=True))


@pytest.mark.parametrize(("length", "E"), [(81, 64), (128, 80), (191, 16)])
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_long_sequences_without_mask_and_bias(length, E, p):
    """17 tokens, none, and nearly a block behind the last whole block."""
    check_reference(packed(((1, length),), E=E, p=p))


@pytest.mark.parametrize("scale", [-0.5, 0.0])
@pytest.mark.parametrize("mask", [None, "some"])
def test_scales_that_are_not_positive(scale, mask):
    """The largest score is then not that of the largest product."""
    check_reference(packed(((1, 81),), mask=mask, scale=scale))


@pytest.mark.parametrize("mask", ["row", "all"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("N", [1, 7, 17])
def test_rows_with_all_keys_masked(mask, bias, N):
    """In float32 the lowered scores are all equal, so such a row is the mean of the values."""
    check_reference(dense(N=N, H=1, mask=mask, bias=bias))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_any_type_of_mask(kind):
    q, k, v = (randn(2, 5, 1, 16, seed=seed) for seed in range(3))
    mask = mask_of("some", 2, 5)
    expected = attention(q, k, v, mask=mask, scale=0.5, backend="triton")
    assert torch.equal(attention(q, k, v, mask=mask.to(kind), scale=0.5, backend="triton"), expected)
    if kind.is_floating_point:  # whatever is not zero may be seen
        small = mask.to(kind) * 1e-3
        assert torch.equal(attention(q, k, v, mask=small, scale=0.5, backend="triton"), expected)


@pytest.mark.parametrize("shape", [dict(B=0), dict(N=0), dict(B=0, N=0)])
@pytest.mark.parametrize("bias", [False, True])
def test_nothing(shape, bias):
    check_reference(dense(**shape, bias=bias))


@pytest.mark.parametrize("segments", [((1, 17),), ((4, 5),), SEVERAL, ((1, 1), (1, 33)), ((2, 3), (1, 0), (0, 9))])
@pytest.mark.parametrize(("mask", "bounds"), [(None, False), ("some", True)])
def test_packed_equals_the_reference(segments, mask, bounds):
    check_reference(packed(segments, mask=mask, bounds=bounds))


@pytest.mark.parametrize("masked", [(True, False, False, True), (False, True, True, False), (False,) * 4])
def test_the_mask_concerns_some_segments(masked):
    """Of several lengths, which may be several launches."""
    check_reference(packed(((2, 3), (1, 17), (1, 2), (1, 70)), mask="some", masked=masked))


def test_packed_with_a_bias_and_a_tensor_of_bounds():
    check_reference(packed(((3, 17),), bias=True, mask="some"))
    qkv = randn(8, 3, 1, 16)
    out = packed_attention(qkv, cu_seqlens=torch.tensor([0, 3, 8], device=DEVICE), scale=0.5, backend="triton")
    assert torch.equal(out, packed_attention(qkv, ((1, 3), (1, 5)), scale=0.5, backend="triton"))


def test_a_packed_sequence_with_all_keys_masked():
    check_reference(packed(mask="all"))


def test_large_scores():
    """The running maximum: scores of several hundreds, growing and falling along the keys. The backward pass takes them
    from a log-sum-exp of their size, whose rounding is a relative error of the weights."""
    ours = dense(B=1, N=33, H=1, scale=8.0)
    grow = torch.linspace(0.1, 4, 33, device=DEVICE)[:, None, None]
    for order in (grow, grow.flip(0)):
        leaves = {**ours.leaves, "k_BNHE": randn(1, 33, 1, 16, seed=1) * order}
        scores = torch.einsum("bnhe,bmhe->bhnm", 8.0 * leaves["q_BNHE"], leaves["k_BNHE"])
        assert largest(scores) > 300
        check_reference(Case(ours.run, leaves, ours.plain, torch.finfo(torch.float32).eps * largest(scores)))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "options", [dict(B=1, N=33, H=1), dict(mask="some", bias=True), dict(H=1, E=24, scale=1.0), dict(N=2, E=64)]
)
def test_half_types_are_as_exact_as_plain_pytorch(dtype, options):
    check_half(dense(**options), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_of_sentences_in_training(dtype):
    """Mask, bias and dropout at once: on an H200 (Triton 3.6) products over 16 keys were wrong here alone."""
    check_half(dense(E=64, mask="some", bias=True, p=0.3), dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_half_types_packed(dtype, p):
    check_half(packed(mask="some"), dtype)
    check_half(packed(((1, 81),), p=p), dtype)


@pytest.mark.parametrize(
    ("segments", "options"),
    [
        (SEVERAL, dict(p=0.3)),
        (SEVERAL, dict(p=0.3, mask="some", E=24)),
        (((3, 5),), dict(p=0.5, bias=True, H=2)),
        (((1, 33),), dict(p=0.1, bias=True, mask="some")),
        (((1, 1),), dict(p=0.5)),
    ],
)
def test_dropout_equals_the_explicit_mask(segments, options):
    check_reference(packed(segments, **options))


def test_dense_dropout_is_the_packed_one():
    ours, other = dense(B=3, N=5, p=0.3), packed(((3, 5),), p=0.3)
    qkv = torch.stack(list(ours.leaves.values()), dim=2).flatten(0, 1)
    found = evaluate(Case(other.run, {"qkv_T3HE": qkv}))["output 0"]
    assert torch.equal(evaluate(ours)["output 0"].flatten(0, 1), found)


def test_dropout_of_everything():
    assert not any(value.any() for value in evaluate(packed(p=1.0)).values())


def test_dropout_follows_the_generator():
    check_seeds(packed(p=0.5))


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
    B=st.integers(0, 2),
    N=st.integers(1, 20),
    H=st.integers(1, 2),
    E=st.integers(1, 40),
    mask=st.sampled_from([None, "some"]),
    bias=st.booleans(),
)
def test_any_dense_shape(B, N, H, E, mask, bias):
    check_reference(dense(B, N, H, E, mask, bias))


@few
@given(
    segments=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=1, max_size=3).map(tuple),
    mask=st.sampled_from([None, "some"]),
    p=st.sampled_from([0.0, 0.25]),
)
def test_any_packing(segments, mask, p):
    if sum(count * length for count, length in segments) == 0:
        mask = None
    check_reference(packed(segments, H=1, mask=mask, p=p))
