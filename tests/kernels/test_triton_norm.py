"""The norms in Triton against plain PyTorch."""

from __future__ import annotations

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
    check_results,
    check_seeds,
    elementwise_keep,
    evaluate,
    few,
    needs_triton,
    randn,
)
from tests.numerics import assert_as_exact_as_eager
from vatt.kernels import layer_norm, rms_norm

pytestmark = needs_triton

OPS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


def case(op="layer_norm", shape=(2, 17), width=48, residual=True, p=0.0, used=None):
    """``used``: the index of the only output that is used."""
    leaves = {"x": randn(*shape, width), "weight": randn(width, seed=1)}
    if op == "layer_norm":
        leaves["bias"] = randn(width, seed=2)
    if residual:
        leaves["residual"] = randn(*shape, width, seed=3) + 1

    def run(backend, **leaves):
        out = OPS[op](**leaves, dropout_p=p, backend=backend)
        return out if used is None else out[used]

    def plain(_backend, x, residual, **parameters):
        """The norm behind a dropout by the explicit mask."""
        dropped = (x.flatten(0, -2) * elementwise_keep(x.shape[:-1].numel(), width, p).to(x)).view(x.shape)
        out = OPS[op](dropped, residual=residual, **parameters, backend="torch")
        return out if used is None else out[used]

    return Case(run, leaves, plain if p > 0 else None)


# First, because a kernel that writes outside of its arrays may end the process in any other test.
CASES = {
    "layer_norm": case(shape=(17,), width=7, residual=False),
    "rms_norm": case("rms_norm", (17,), 7, residual=False),
    "layer_norm, residual, dropout": case(p=0.3),
    "rms_norm, residual, dropout": case("rms_norm", width=7, p=0.3),
    "one row": case(shape=(1,), width=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    check_memory(CASES[name])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", [1, 7, 48])
@pytest.mark.parametrize("shape", [(), (1,), (2, 9), (33,), (0,), (2, 0)])
def test_equals_the_reference(op, shape, width, residual):
    check_reference(case(op, shape, width, residual))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_one_of_the_outputs_may_be_unused(op, used, p):
    ours = case(op, p=p, used=used)
    found = evaluate(ours)
    if used == 0:  # the sum alone: the operator gives zeros where plain PyTorch has no gradient
        for name in {"gradient of weight", "gradient of bias"} & found.keys():
            assert not found[name].any()
            found[name] = None
    check_results(found, ours)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("residual", [False, True])
def test_half_types_are_as_exact_as_plain_pytorch(op, dtype, residual):
    check_half(case(op, residual=residual), dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_statistics_are_float32(dtype):
    """Far from zero the squares of a half type overflow or cancel."""
    x = torch.tensor([[2000.0, 2008.0, 2016.0, 2024.0]], dtype=dtype, device=DEVICE)
    weight, bias = torch.ones(4, dtype=dtype, device=DEVICE), torch.zeros(4, dtype=dtype, device=DEVICE)
    for op, parameters in ((layer_norm, (weight, bias)), (rms_norm, (weight,))):
        exact = op(x.double(), *(v.double() for v in parameters), backend="torch")
        ours, eager = (op(x, *parameters, backend=backend) for backend in ("triton", "torch"))
        assert_as_exact_as_eager(ours, eager, exact, floor=torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("shape", "width", "p"), [((2, 17), 7, 0.3), ((1,), 48, 0.9), ((33,), 1, 0.5)])
def test_dropout_equals_the_explicit_mask(op, shape, width, p):
    check_reference(case(op, shape, width, p=p))


def test_dropout_of_everything_leaves_the_residual():
    ours = case(p=1.0)
    assert torch.equal(evaluate(ours)["output 0"], ours.leaves["residual"])
    assert not evaluate(ours)["gradient of x"].any()


def test_dropout_follows_the_generator():
    check_seeds(case(p=0.5))


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
    op=st.sampled_from(list(OPS)),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    width=st.integers(1, 40),
    residual=st.booleans(),
)
def test_any_shape(op, shape, width, residual):
    check_reference(case(op, shape, width, residual))


@pytest.mark.parametrize("op", OPS)
def test_the_stream_keeps_its_type_beside_an_update_in_half_precision(op):
    """As under autocast, where a product makes the update half and the residual stream is float32."""
    width = 48
    leaves = {
        "x": randn(5, width, dtype=torch.float16),
        "residual": randn(5, width, seed=3) * 1e5,
        "weight": randn(width),
    }
    if op == "layer_norm":
        leaves["bias"] = randn(width, seed=2)
    found = {}
    for name, backend, kind in (("eager", "torch", None), ("ours", "triton", None), ("exact", "torch", torch.float64)):
        inputs = {key: leaf.clone().to(kind or leaf.dtype).requires_grad_() for key, leaf in leaves.items()}
        total, normed = OPS[op](**inputs, backend=backend)
        assert total.dtype == (kind or torch.float32)
        grads = torch.autograd.grad((total.sum() + normed.square().sum()), list(inputs.values()))
        found[name] = {"total": total, "normed": normed.to(total), **dict(zip(leaves, grads, strict=True))}
    assert_as_exact_as_eager(found["ours"], found["eager"], found["exact"])
