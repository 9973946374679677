"""The contrastive losses on the streaming log-sum-exp in Triton against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.conftest import (
    DEVICE,
    HALF,
    Case,
    check_compiled,
    check_layout,
    check_memory,
    check_reference,
    check_repeats,
    evaluate,
    few,
    needs_triton,
    randn,
)
from tests.numerics import assert_as_exact_as_eager
from vatt.kernels import nce
from vatt.kernels.nce import Rows

pytestmark = needs_triton

KINDS = ["asymmetric", "symmetric"]


def valid(items, hidden, seed):
    """A mask that hides the first item and a few others; all of them, if ``hidden`` is "all"."""
    mask = (randn(items, seed=seed) > -0.5).float()
    mask[:1] = 0
    return torch.zeros_like(mask) if hidden == "all" else mask


def case(kind="asymmetric", B=5, ranks=1, offset=0, C=1, S=3, D=7, masks=(None, None), temperature=0.07, **options):
    """Local rows are ``offset`` to ``offset + B`` of all rows, and have a gradient from both uses; of one rank they are
    the same tensor. ``masks``: of the first and the second modality, None, "some" or "all"."""
    A = B * ranks
    leaves = {
        "first": F.normalize(randn(A, C, D), dim=-1),
        "second": F.normalize(randn(A, S, D, seed=1), dim=-1),
    }
    hidden = [None if mask is None else valid(A, mask, 11 + i).to(DEVICE) for i, mask in enumerate(masks)]
    local = slice(offset, offset + B)

    def run(backend, first, second):
        rows = [
            Rows(x if ranks == 1 else x[local], x, *(() if mask is None else (mask[local], mask)))
            for x, mask in zip((first, second), hidden, strict=True)
        ]
        return nce(*rows, temperature=temperature, kind=kind, backend=backend, **options)

    return Case(run, leaves, **exactness(temperature, **options))


def exactness(temperature, precision=None):
    """Losses and gradients are differences of terms of the size of 1 / temperature, made with softmax weights of
    similarities of that size, whose rounding is a relative error of the weights. For products in a half type the
    weights are rounded to it."""
    floor = torch.finfo(torch.float32).eps / temperature if precision is None else torch.finfo(precision).eps
    return dict(floor=floor, scale=1 / temperature)


# First, because a kernel that writes outside of its arrays may end the process in any other test.
CASES = {
    "asymmetric": case(),
    "asymmetric, masks, ranks": case(B=9, ranks=2, offset=9, masks=("some", "some")),
    "symmetric": case("symmetric", C=2, D=17),
    "symmetric, masks, ranks": case("symmetric", ranks=3, offset=5, masks=("some", "some")),
    "one": case(B=1, S=1, D=1),
    "one rank, masks": case("symmetric", B=37, S=2, masks=("some", "some")),
    "held": case(B=9, S=2, D=24, masks=(None, "some"), precision=torch.float16),
    "held, ranks": case("symmetric", ranks=3, offset=5, D=96, masks=("some", "some"), precision=torch.float16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    check_memory(CASES[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("B", "D"), [(1, 7), (2, 1), (17, 7), (37, 7), (5, 48), (5, 200)])
def test_equals_the_reference(kind, B, D):
    check_reference(case(kind, B, D=D))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("C", "S", "ranks", "offset"), [(1, 1, 3, 0), (2, 5, 1, 0), (2, 4, 3, 10), (4, 1, 3, 5), (1, 5, 2, 5)]
)
def test_candidates_and_ranks(kind, C, S, ranks, offset):
    check_reference(case(kind, ranks=ranks, offset=offset, C=C, S=S))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", [("some", None), (None, "some"), ("some", "some")])
def test_masks(kind, masks):
    check_reference(case(kind, ranks=3, offset=5, masks=masks))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", [("all", None), (None, "all"), ("all", "all"), ("some", "all")])
def test_all_items_masked(kind, masks):
    """The loss is 0, or not touched by the mask of the first."""
    ours = case(kind, masks=masks)
    check_reference(ours)
    if kind == "symmetric" or masks[1] == "all":
        assert not any(value.any() for value in evaluate(ours).values())


@pytest.mark.parametrize("kind", KINDS)
def test_no_valid_item_on_this_rank(kind):
    """Others have some, so the mean over this rank is 0 while theirs is not."""
    ours = case(kind, B=1, ranks=4, offset=0, masks=("some", "some"))
    check_reference(ours)
    assert not evaluate(ours)["output 0"].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.005, 1.0])
def test_temperatures(kind, temperature):
    check_reference(case(kind, masks=("some", "some"), temperature=temperature))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_local_batch(kind):
    everywhere = [F.normalize(randn(4, n, 6, seed=n), dim=-1) for n in (1, 2)]

    def run(backend, first, second):
        return nce(Rows(first[:0], first), Rows(second[:0], second), temperature=0.1, kind=kind, backend=backend)

    check_reference(Case(run, dict(zip(("first", "second"), everywhere, strict=True)), **exactness(0.1)))


@pytest.mark.parametrize("kind", KINDS)
def test_more_rows_than_a_block_of_the_interpreter(kind):
    check_reference(case(kind, B=3, ranks=30, offset=30, S=2, D=70))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["first_local", "second_local", "first_all", "second_all"])
def test_rows_without_a_gradient(kind, missing):
    """Gathered rows of other ranks may have none."""
    rows = {"first_local": 0, "second_local": 1, "first_all": 2, "second_all": 3}
    leaves = {name: F.normalize(randn(4, 2, 6, seed=seed), dim=-1) for name, seed in rows.items()}
    fixed = {missing: leaves.pop(missing)}

    def run(backend, **given):
        every = {**given, **{name: x.to(next(iter(given.values())).dtype) for name, x in fixed.items()}}
        first, second = (Rows(every[f"{name}_local"], every[f"{name}_all"]) for name in ("first", "second"))
        return nce(first, second, temperature=0.1, kind=kind, backend=backend)

    check_reference(Case(run, leaves, **exactness(0.1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("masks", [(None, None), ("some", "some")])
def test_half_types_stay_near(kind, dtype, masks):
    """Plain PyTorch computes in float32 from half rows; the kernel rounds the softmax weights to the half type, a few
    roundings of the gradient. The losses themselves are sums in float32."""
    ours = case(kind, B=9, ranks=2, offset=9, S=2, masks=masks)
    found, eager = (evaluate(ours, backend, dtype) for backend in ("triton", "torch"))
    exact = evaluate(ours, "torch", dtype, compute=torch.float64)
    assert_as_exact_as_eager(found, eager, exact, floor=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("D", [1, 24, 96, 200, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ranks", [1, 3])
def test_half_types_of_any_width(kind, D, ranks):
    """Own rows are held, in a width that is a power of two; those of more than 512 columns are read in pieces."""
    ours = case(kind, B=3, ranks=ranks, offset=3 * (ranks - 1), S=2, D=D, masks=(None, "some"))
    found, eager = (evaluate(ours, backend, torch.float16) for backend in ("triton", "torch"))
    exact = evaluate(ours, "torch", torch.float16, compute=torch.float64)
    assert_as_exact_as_eager(found, eager, exact, **exactness(0.07, torch.float16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["triton", "matmul"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_products_in_another_type_than_the_rows(kind, backend, ranks):
    """Losses and positives are those of the rounded rows, and gradients have the type of the rows. Rounding is small:
    the losses of the rows as they are lie near."""
    shape = dict(B=9, ranks=ranks, offset=9 * (ranks - 1), S=2, D=24, masks=("some", "some"))
    ours = case(kind, **shape, precision=torch.float16)
    found, eager, exact = ours.known(backend), ours.known("torch"), ours.known("torch", torch.float64)
    assert all(value.dtype == torch.float32 for value in found.values())
    # The kernels round softmax weights to the type of the products, too.
    assert_as_exact_as_eager(found, eager, exact, **exactness(0.07, torch.float16))
    assert_as_exact_as_eager(*(run["output 0"] for run in (found, eager, exact)), **exactness(0.07))
    unrounded = case(kind, **shape).known("torch", torch.float64)
    assert not torch.equal(unrounded["output 0"].float(), exact["output 0"].float())
    torch.testing.assert_close(found["output 0"].double(), unrounded["output 0"], atol=0.02, rtol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_small_gradients_of_fp16(kind):
    """Softmax weights times the gradient of a mean over many items are below the smallest number of float16."""
    first, second = (F.normalize(randn(9, n, 24, seed=n), dim=-1).half() for n in (1, 3))

    def gradients(backend, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in (first, second)]
        rows = [Rows(x, x) for x in leaves]
        losses = nce(*rows, temperature=0.07, kind=kind, precision=torch.float16, backend=backend)
        return torch.autograd.grad(losses.double().sum() * 1e-9, leaves)

    found, exact = gradients("triton", torch.float32), gradients("torch", torch.float64)
    for ours, wanted in zip(found, exact, strict=True):
        assert (ours.double() - wanted).abs().max() < 2e-3 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(("near", "bound"), [(0.3, 5e-4), (1.0, 0.08)])
def test_the_error_of_rounded_weights(near, bound):
    """Of the gradients in float16 against float64 with the same rounded rows: the figures of docs/kernels.md."""
    video = randn(48, 1, 256)
    text = near * video + randn(48, 5, 256, seed=1)

    def gradients(backend, dtype):
        leaves = [F.normalize(x, dim=-1).to(dtype).requires_grad_() for x in (video, text)]
        losses = nce(*(Rows(x, x) for x in leaves), temperature=0.07, precision=torch.float16, backend=backend)
        return torch.autograd.grad(losses, leaves, randn(48, seed=90).to(losses))

    found, exact = gradients("triton", torch.float32), gradients("torch", torch.float64)
    for ours, wanted in zip(found, exact, strict=True):
        assert (ours - wanted).norm() < bound * wanted.norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", [(None, None), ("some", "some"), (None, "some")])
@pytest.mark.parametrize("backend", ["triton", "matmul"])
def test_one_rank_is_that_of_separate_rows(kind, masks, backend):
    """The shared pass gives what two passes give, and the gradient of the local and of all rows is their sum."""
    one = case(kind, B=19, S=2, masks=masks)
    rows = {name: x.clone().requires_grad_() for name, x in one.leaves.items()}
    hidden = [None if mask is None else valid(19, mask, 11 + i).to(DEVICE) for i, mask in enumerate(masks)]
    masked = [() if mask is None else (mask, mask) for mask in hidden]
    pair = [Rows(x.view_as(x), x, *mask) for x, mask in zip(rows.values(), masked, strict=True)]
    assert pair[0].all is not pair[0].local
    losses = nce(*pair, temperature=0.07, kind=kind, backend=backend)
    grads = torch.autograd.grad(losses, list(rows.values()), randn(19, seed=90))
    found = one.known(backend)
    names = [f"gradient of {name}" for name in rows]
    separate = {"output 0": losses.detach(), **dict(zip(names, grads, strict=True))}
    assert_as_exact_as_eager(separate, one.known("torch"), one.known("torch", torch.float64), **exactness(0.07))
    assert_as_exact_as_eager(found, one.known("torch"), one.known("torch", torch.float64), **exactness(0.07))


@pytest.mark.parametrize("name", CASES)
def test_inputs_in_pieces(name):
    check_layout(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_repeats_bit_by_bit(name):
    check_repeats(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asymmetric", "symmetric, masks, ranks"])
def test_compiles_without_a_break(name):
    check_compiled(CASES[name])


@few
@given(
    kind=st.sampled_from(KINDS),
    B=st.integers(1, 6),
    ranks=st.integers(1, 3),
    C=st.integers(1, 3),
    S=st.integers(1, 3),
    D=st.integers(1, 20),
    masks=st.tuples(*[st.sampled_from([None, "some"])] * 2),
)
def test_any_shape(kind, B, ranks, C, S, D, masks):
    check_reference(case(kind, B, ranks, B * (ranks - 1), C, S, D, masks))
