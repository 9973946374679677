"""Operators: plain calls in eager mode, custom operators where PyTorch traces; and the seeds of dropout."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.conftest import DEVICE, needs_triton, randn
from tests.numerics import assert_as_exact_as_eager
from vatt.kernels.dropout import draw_seeds
from vatt.kernels.mlp import mlp
from vatt.kernels.norm import layer_norm, rms_norm
from vatt.kernels.operators import Operator
from vatt.kernels.patch_embed import patch_embed


class Called(TorchDispatchMode):
    """Names of the operators that PyTorch's dispatcher sees."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def cube():
    """x^3, with its gradient."""
    found = []

    slope = Operator("vatt_tests::slope", "(Tensor x) -> Tensor", lambda x: 3 * x**2, torch.empty_like)

    def backward(ctx, grad):
        return grad * slope(*ctx.saved_tensors)

    def run(x):
        found.append(type(x))
        return x**3

    op = Operator("vatt_tests::cube", "(Tensor x) -> Tensor", run, torch.empty_like)
    op.gradient(lambda ctx, inputs, output: ctx.save_for_backward(*inputs), backward)
    op.found = found
    return op


def test_eager_calls_do_not_go_through_the_dispatcher(cube):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with Called() as called:
        (grad,) = torch.autograd.grad(cube(x).sum(), x)
    assert grad.tolist() == [3.0, 12.0]
    assert not [name for name in called.names if name.startswith("vatt_tests")]


def test_a_parameter_is_a_plain_tensor(cube):
    with Called() as called:
        cube(torch.nn.Parameter(torch.ones(2)))
    assert not [name for name in called.names if name.startswith("vatt_tests")]


def test_fake_tensors_meet_the_custom_operator(cube):
    before = len(cube.found)
    with FakeTensorMode():
        out = cube(torch.ones(3, requires_grad=True))
        out.sum().backward()
    assert out.shape == (3,)
    assert len(cube.found) == before, "the function ran on a tensor without content"


def test_one_graph_holds_the_custom_operator(cube):
    graphs = []

    def keep_graph(module, _):
        graphs.append(module)
        return module

    torch.compiler.reset()
    compiled = torch.compile(lambda x: cube(x) + 1, fullgraph=True, backend=keep_graph)
    assert compiled(torch.tensor([2.0])).tolist() == [9.0]
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert any("vatt_tests.cube" in target for target in targets), targets


def test_a_second_derivative_is_refused(cube):
    x = torch.tensor([2.0], requires_grad=True)
    (grad,) = torch.autograd.grad(cube(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"vatt_tests\.slope.*no autograd formula"):
        (grad.sum() + x.sum()).backward()


def test_seeds_are_one_draw_in_aligned_views():
    with Called() as called:
        seeds = draw_seeds(5, DEVICE)
    assert sum("randint" in name for name in called.names) == 1
    assert len({int(seed[0]) for seed in seeds}) == 5
    assert {seed.data_ptr() % 16 for seed in seeds} == {0}


P = 0.3


def run_mlp(backend, seed):
    weights = randn(40, 20, seed=1), randn(40, seed=2), randn(20, 40, seed=3), randn(20, seed=4)
    return mlp(randn(3, 7, 20), *weights, dropout_p=P, seed=seed, backend=backend)


def run_layer_norm(backend, seed):
    x, residual = randn(3, 7, 22), randn(3, 7, 22, seed=1)
    return layer_norm(
        x, randn(22, seed=2), randn(22, seed=3), residual=residual, dropout_p=P, seed=seed, backend=backend
    )[1]


def run_rms_norm(backend, seed):
    x, residual = randn(3, 7, 22), randn(3, 7, 22, seed=1)
    return rms_norm(x, randn(22, seed=2), residual=residual, dropout_p=P, seed=seed, backend=backend)[1]


def run_patch_embed(backend, seed):
    rows = dict(positions=randn(6, 18, seed=3), token=randn(18, seed=4), kept=torch.tensor([4, 0, 5], device=DEVICE))
    weight = randn(18, 8, seed=1), randn(18, seed=2)
    return patch_embed(randn(2, 48), *weight, (8,), **rows, dropout_p=P, seed=seed, backend=backend)


RUNS = {
    "mlp": (run_mlp, "triton"),
    "mlp, product": (run_mlp, "triton_gemm"),
    "layer_norm": (run_layer_norm, "triton"),
    "rms_norm": (run_rms_norm, "triton"),
    "patch_embed": (run_patch_embed, "triton"),
    "patch_embed, gathered": (run_patch_embed, "gather"),
}


@needs_triton
@pytest.mark.parametrize("name", RUNS)
def test_a_seed_gives_one_mask_in_every_backend(name):
    run, backend = RUNS[name]
    first, other = draw_seeds(2, DEVICE)
    ours, plain = run(backend, first), run("torch", first)
    # A mask that differs in one element shows: no element is off by more than rounding.
    assert_as_exact_as_eager({"out": ours}, {"out": plain}, {"out": plain.double()}, floor=1e-5)
    assert torch.equal(ours, run(backend, first))
    assert not torch.allclose(ours, run(backend, other))
