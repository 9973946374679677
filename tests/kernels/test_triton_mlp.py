"""The perceptron in Triton, alone behind PyTorch's product or on the accumulators of its own, against plain PyTorch."""

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
from vatt.kernels import dense_gelu, mlp

triton = pytest.importorskip("triton")
tl = triton.language
normal = pytest.importorskip("vatt.kernels.mlp.triton_kernels").normal

pytestmark = needs_triton

BACKENDS = ["triton", "triton_gemm"]


def case(shape=(2, 17), D=7, M=48, biases="both", p=0.0, out=None):
    """``biases``: both, one of them ("in", "out") or none (None)."""
    leaves = {
        "x": randn(*shape, D),
        "weight_in": randn(M, D, seed=1),
        "bias_in": randn(M, seed=2) if biases in ("both", "in") else None,
        "weight_out": randn(out or D, M, seed=3),
        "bias_out": randn(out or D, seed=4) if biases in ("both", "out") else None,
    }

    def run(backend, x, weight_in, weight_out, bias_in=None, bias_out=None):
        return mlp(x, weight_in, bias_in, weight_out, bias_out, dropout_p=p, backend=backend)

    def plain(_backend, x, weight_in, weight_out, bias_in=None, bias_out=None):
        """Dropout of the hidden units by the explicit mask: row = flattened row, column = unit."""
        hidden = F.gelu(F.linear(x, weight_in, bias_in))
        factors = elementwise_keep(hidden.shape[:-1].numel(), hidden.shape[-1], p).view(hidden.shape)
        return F.linear(hidden * factors.to(hidden), weight_out, bias_out)

    return Case(run, {name: leaf for name, leaf in leaves.items() if leaf is not None}, plain if p > 0 else None)


def dense_case(shape=(2, 17), D=7, M=48, bias=True):
    leaves = {"x": randn(*shape, D), "weight": randn(M, D, seed=1)}
    if bias:
        leaves["bias"] = randn(M, seed=2)

    def run(backend, x, weight, bias=None):
        return dense_gelu(x, weight, bias, backend=backend)

    return Case(run, leaves)


# First, because a kernel that writes outside of its arrays may end the process in any other test.
CASES = {
    "mlp": (case(), "triton"),
    "mlp, dropout": (case((33,), 7, 17, p=0.3), "triton"),
    "mlp, no bias": (case((2,), 1, 7, None), "triton"),
    "own product": (case(), "triton_gemm"),
    "own product, dropout": (case((33,), 7, 17, p=0.3), "triton_gemm"),
    "own product, no bias": (case((2,), 1, 7, None), "triton_gemm"),
    "dense_gelu": (dense_case(), "triton"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    check_memory(*CASES[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1,), (2,), (2, 17), (33,), (0,), (2, 0, 3), ()])
def test_equals_the_reference(backend, shape):
    check_reference(case(shape), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("D", "M"), [(1, 1), (48, 7), (17, 33)])
def test_widths(backend, D, M):
    check_reference(case((2, 5), D, M), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biases", [None, "in", "out"])
def test_biases_may_be_missing(backend, biases):
    check_reference(case(biases=biases, out=5), backend)


@pytest.mark.parametrize("shape", [(1,), (2, 17), (33,), (0,), ()])
@pytest.mark.parametrize("bias", [False, True])
def test_dense_gelu_equals_the_reference(shape, bias):
    check_reference(dense_case(shape, bias=bias))


@pytest.mark.parametrize(("D", "M"), [(1, 1), (48, 7)])
def test_widths_of_dense_gelu(D, M):
    check_reference(dense_case(D=D, M=M))


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_blocks_than_programs(backend):
    """Groups of rows and columns of the product, and programs of the backward pass that take several tiles."""
    check_reference(case((150,), 3, 270), backend)


def test_gelu_far_from_zero():
    """The exact GELU and its derivative in both tails."""
    x = torch.linspace(-12, 12, 97)[:, None]
    ours = dense_case((97,), 1, 1, bias=False)
    ours.leaves = {"x": x.to(ours.leaves["x"]), "weight": torch.ones_like(ours.leaves["weight"])}
    check_reference(ours)


@pytest.mark.parametrize("dtype", HALF)
def test_gelu_far_from_zero_in_half_types(dtype):
    """There the error function is a formula."""
    ours = dense_case((97,), 1, 1, bias=False)
    ours.leaves = {"x": torch.linspace(-12, 12, 97, device=DEVICE)[:, None], "weight": torch.ones(1, 1, device=DEVICE)}
    check_half(ours, dtype)


@triton.jit
def write_normal(x_ptr, upper_ptr, density_ptr, EXACT: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    upper, density = normal(tl.load(x_ptr + i), EXACT)
    tl.store(upper_ptr + i, upper)
    tl.store(density_ptr + i, density)


@pytest.mark.parametrize(("exact", "error"), [(True, 1.5e-7), (False, 3e-7)])
def test_the_normal_distribution(exact, error):
    """The formula is as good as its source says, and also relative to the tail where a half type still sees it."""
    x = torch.linspace(-9, 9, 4096, device=DEVICE)
    upper, density = torch.full((2, 4096), float("nan"), device=DEVICE)
    write_normal[(1,)](x, upper, density, EXACT=exact, SIZE=4096)
    distribution = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    wanted = torch.special.ndtr(x.double())
    assert (upper - wanted).abs().max() < error
    assert (density - distribution.log_prob(x.double()).exp()).abs().max() < error
    if not exact:
        tail = (x > -5) & (x < 0)
        assert ((upper - wanted) / wanted)[tail].abs().max() < 2e-3  # half a rounding of bfloat16


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biases", [None, "both"])
def test_half_types_are_as_exact_as_plain_pytorch(dtype, backend, biases):
    check_half(case(D=48, M=64, biases=biases), dtype, backend)


@pytest.mark.parametrize("dtype", HALF)
def test_dense_gelu_in_half_types(dtype):
    check_half(dense_case(), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "D", "M", "p"), [((2, 17), 7, 48, 0.3), ((1,), 1, 7, 0.5), ((33,), 48, 1, 0.1)])
def test_dropout_equals_the_explicit_mask(backend, shape, D, M, p):
    check_reference(case(shape, D, M, p=p), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_of_everything_leaves_the_bias(backend):
    ours = case(p=1.0)
    found = evaluate(ours, backend)
    assert torch.equal(found["output 0"], ours.leaves["bias_out"].expand(2, 17, -1))
    assert not found["gradient of x"].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_follows_the_generator(backend):
    check_seeds(case(p=0.5), backend)


@pytest.mark.parametrize("name", CASES)
def test_inputs_in_pieces(name):
    check_layout(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_repeats_bit_by_bit(name):
    check_repeats(*CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "mlp, dropout", "own product, dropout", "dense_gelu"])
def test_compiles_without_a_break(name):
    check_compiled(*CASES[name])


@few
@given(
    backend=st.sampled_from(BACKENDS),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    D=st.integers(1, 20),
    M=st.integers(1, 40),
    biases=st.sampled_from([None, "in", "out", "both"]),
)
def test_any_shape(backend, shape, D, M, biases):
    check_reference(case(shape, D, M, biases), backend)
