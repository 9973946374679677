"""Mixed types: autocast makes them one, and without it they are refused by name, whatever the backend."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.conftest import DEVICE, INTERPRETED, needs_triton, randn
from tests.numerics import assert_as_exact_as_eager, distance, largest
from vatt.kernels import attention, dense_gelu, layer_norm, mlp, nce, packed_attention, patch_embed, rms_norm
from vatt.kernels.nce import Rows
from vatt.kernels.types import of_a_norm, of_a_product

D, M, N = 16, 32, 5
PRODUCTS, NORMS = ("attention", "packed_attention", "mlp", "dense_gelu", "patch_embed"), ("layer_norm", "rms_norm")
BACKENDS = dict.fromkeys((*PRODUCTS, *NORMS, "nce"), ("torch", "triton"))
BACKENDS |= {"attention": ("torch", "sdpa", "triton"), "packed_attention": ("torch", "sdpa", "triton")}
BACKENDS |= {"mlp": ("torch", "triton", "triton_gemm"), "patch_embed": ("torch", "gather", "triton")}
PLAIN = ("torch", "sdpa")  # in every type on a CPU
PAIRS = [(op, backend) for op, names in BACKENDS.items() for backend in names]
HALF = torch.float16 if INTERPRETED else torch.bfloat16  # what the kernels can do here


def leaves_of(op):
    heads = {name: randn(2, N, 2, 8, seed=i) for i, name in enumerate(("q_BNHE", "k_BNHE", "v_BNHE"))}
    line, square = randn(D, seed=5), {"weight": randn(M, D, seed=3), "bias": randn(M, seed=4)}
    return {
        "attention": heads,
        "packed_attention": {"qkv_T3HE": randn(2 * N, 3, 2, 8)},
        "mlp": {"x": randn(3, D), "weight_in": randn(M, D, seed=1), "bias_in": randn(M, seed=2)}
        | {"weight_out": randn(D, M, seed=3), "bias_out": randn(D, seed=4)},
        "dense_gelu": {"x": randn(3, D), **square},
        "patch_embed": square | {"positions": randn(4, M, seed=6), "token": randn(M, seed=7)},
        "layer_norm": {"x": randn(3, D), "weight": line, "bias": randn(D, seed=6), "residual": randn(3, D, seed=7)},
        "rms_norm": {"x": randn(3, D), "weight": line, "residual": randn(3, D, seed=7)},
        "nce": {name: randn(4, 1, D, seed=i) for i, name in enumerate(("first", "second"))},
    }[op]


def call(op, backend, leaves, signal=None):
    x = randn(2, 4 * D, seed=9) if signal is None else signal
    options = {"backend": backend}
    return {
        "attention": lambda: attention(**leaves, scale=0.35, **options),
        "packed_attention": lambda: packed_attention(**leaves, segments=((2, N),), scale=0.35, **options),
        "mlp": lambda: mlp(**leaves, **options),
        "dense_gelu": lambda: dense_gelu(**leaves, **options),
        "patch_embed": lambda: patch_embed(x, patch=(D,), **leaves, **options),
        "layer_norm": lambda: layer_norm(**leaves, **options),
        "rms_norm": lambda: rms_norm(**leaves, **options),
        "nce": lambda: nce(*(Rows(y, y) for y in leaves.values()), temperature=0.5, **options),
    }[op]()


def run(op, backend, leaves, signal=None):
    """Outputs and gradients by number."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    found = call(op, backend, leaves, signal)
    outputs = found if isinstance(found, tuple) else (found,)
    grads = torch.autograd.grad([out.float().square().sum() for out in outputs], list(leaves.values()))
    assert [grad.dtype for grad in grads] == [x.dtype for x in leaves.values()]
    return dict(enumerate([*(out.detach() for out in outputs), *grads]))


@pytest.mark.parametrize(("op", "backend"), [pair for pair in PAIRS if pair[1] in PLAIN])
@pytest.mark.parametrize("mixed", [False, True])
def test_under_autocast_products_are_lowered_and_norms_are_not(op, backend, mixed):
    """Leaves of float32, or the first of them as an operation before it left it."""
    leaves = leaves_of(op)
    exact = run(op, "torch", {name: x.double() for name, x in leaves.items()}, randn(2, 4 * D, seed=9).double())
    if mixed:
        first = next(iter(leaves))
        leaves[first] = leaves[first].bfloat16()
        if op == "nce":
            leaves["second"] = leaves["second"].bfloat16()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = run(op, backend, leaves)
    wanted = torch.bfloat16 if op in PRODUCTS else torch.float32
    assert found[0].dtype == (leaves["first"].dtype if op == "nce" else wanted)
    for name, value in found.items():
        assert distance(value, exact[name]) <= 0.05 * largest(exact[name]) + 0.05, name


@needs_triton
@pytest.mark.parametrize(("op", "backend"), [pair for pair in PAIRS if pair[1] not in PLAIN])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_kernels_see_what_autocast_lowered(op, backend, mixed):
    leaves = leaves_of(op)
    if mixed and op != "nce":
        first = next(iter(leaves))
        leaves[first] = leaves[first].to(HALF)
    exact = run(op, "torch", {name: x.double() for name, x in leaves.items()}, randn(2, 4 * D, seed=9).double())
    with torch.autocast(DEVICE.type, HALF):
        found, eager = run(op, backend, leaves), run(op, "torch", leaves)
    for name in found:  # each in its own type
        size = largest(exact[name])
        part = [{name: results[name]} for results in (found, eager, exact)]
        assert_as_exact_as_eager(*part, floor=4 * torch.finfo(HALF).eps, scale=size)


@pytest.mark.parametrize("op", [*PRODUCTS, *NORMS])
def test_without_autocast_another_type_is_refused_by_name(op):
    leaves = leaves_of(op)
    for name in list(leaves)[1:]:
        mixed = {**leaves, name: leaves[name].bfloat16()}
        if op == "patch_embed" and name in ("positions", "token"):
            assert call(op, "torch", mixed).dtype == torch.float32  # rows that are added, of any type
        elif name == "residual":
            assert call(op, "torch", mixed)[0].dtype == torch.float32  # the sum is of the wider type
        else:
            with pytest.raises(ValueError, match=rf"{op}: {name} is torch.bfloat16, but the others are torch.float32"):
                call(op, "torch", mixed)
    with pytest.raises(ValueError, match=r"nce: first.all is torch.bfloat16"):
        nce(*(Rows(x, x.bfloat16()) for x in leaves_of("nce").values()), temperature=0.5)


@needs_triton
@pytest.mark.parametrize("signal", [torch.uint8, HALF, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS["patch_embed"])
@pytest.mark.parametrize("weight", [torch.float32, HALF])
def test_a_signal_of_any_type(signal, backend, weight):
    """Its patches become the type of the weight, which autocast chooses."""
    x = torch.randint(0, 256, (2, 4 * D)).to(DEVICE, signal)
    leaves = {name: value.to(weight) for name, value in leaves_of("patch_embed").items()}
    assert run("patch_embed", backend, leaves, x)[0].dtype == weight
    with torch.autocast(DEVICE.type, HALF):
        assert run("patch_embed", backend, leaves, x)[0].dtype == HALF


def test_float64_stays_under_autocast():
    x = torch.ones(2, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert [y.dtype for y in of_a_product("op", x=x, weight=x)] == [torch.float64] * 2
        assert of_a_norm("op", x, x.float(), weight=x.half())[2].dtype == torch.float64
        with pytest.raises(ValueError, match=r"weight is torch\.float32"):
            of_a_product("op", x=x, weight=x.float())
