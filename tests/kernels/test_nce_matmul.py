"""The contrastive losses on one matrix of similarities, the path of the CPU, against the plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from tests.kernels.conftest import check_compiled, check_reference
from tests.kernels.test_triton_nce import KINDS, case
from vatt.kernels import explain, nce
from vatt.kernels.nce import Rows, matmul

SAFE, UNSAFE = 0.07, 0.005  # temperatures for a matrix of exponentials, and for one of similarities


def rows(items, candidates, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, candidates, 6, generator=generator, dtype=torch.float64)
    return F.normalize(x, dim=-1).to(dtype).requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [SAFE, UNSAFE, 1.0])
@pytest.mark.parametrize("masks", [(None, None), ("some", None), (None, "some"), ("some", "some"), ("all", "all")])
@pytest.mark.parametrize(("ranks", "C", "S"), [(1, 1, 3), (1, 2, 1), (3, 2, 3)])
def test_equals_the_reference(kind, temperature, masks, ranks, C, S):
    shape = dict(ranks=ranks, offset=5 * (ranks - 1), C=C, S=S, masks=masks, temperature=temperature)
    check_reference(case(kind, **shape), "matmul")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_gradients(kind, temperature):
    mask = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)

    def function(first, second):
        pair = Rows(first, first, mask, mask), Rows(second, second, mask, mask)
        return nce(*pair, temperature=temperature, kind=kind, backend="matmul")

    assert torch.autograd.gradcheck(function, [rows(4, 1, 0), rows(4, 2, 1)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1.0, 30.0, 1e4])
def test_rows_of_any_length(kind, length):
    """Far beyond unit rows exponentials relative to one peak would vanish or overflow."""
    first, second = rows(5, 1, 0), rows(5, 3, 1)
    spread = length ** torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None, None]
    results = []
    for backend in ("matmul", "torch"):
        losses = nce(Rows(a := spread * first, a), Rows(second, second), temperature=0.07, kind=kind, backend=backend)
        results.append((losses, *torch.autograd.grad(losses.sum(), (first, second))))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_when_one_peak_is_safe():
    first, second = (Rows(x, x) for x in (rows(4, 1, 0), rows(4, 2, 1)))
    peak = matmul._peak(first, second, SAFE)
    assert peak == pytest.approx(1 / SAFE)
    assert matmul._peak(first, second, UNSAFE) == 0
    long = Rows(first.local, 10 * first.all)
    assert matmul._peak(long, second, SAFE) == 0
    with FakeTensorMode() as fake:
        faked = Rows(fake.from_tensor(first.local), fake.from_tensor(first.all))
        assert matmul._peak(faked, faked, SAFE) == 0
        loss = nce(faked, faked, temperature=SAFE, backend="matmul")
        assert loss.shape == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_without_a_break(kind):
    check_compiled(case(kind, masks=("some", "some")), "matmul")


def test_it_is_what_a_cpu_takes():
    assert [row.backend for row in explain("nce", "cpu") if row.chosen] == ["matmul"]
    first, second = rows(4, 1, 0), rows(4, 2, 1)
    pair = Rows(first, first), Rows(second, second)
    auto, named = (nce(*pair, temperature=SAFE, backend=backend) for backend in ("auto", "matmul"))
    assert torch.equal(auto, named)


@pytest.mark.parametrize(("width", "candidates"), [(256, 5), (512, 1)])
def test_the_error_of_rounded_rows(width, candidates):
    """Of losses and gradients against float64: the figures of docs/kernels.md."""
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(256, 1, width, generator=draw, dtype=torch.float64)
    text = 0.3 * video + torch.randn(256, candidates, width, generator=draw, dtype=torch.float64)
    unit = [F.normalize(x, dim=-1).float() for x in (video, text)]

    def results(dtype, precision):
        leaves = [x.to(dtype).requires_grad_() for x in unit]
        losses = nce(*(Rows(x, x) for x in leaves), temperature=0.07, precision=precision)
        return [losses.detach(), *torch.autograd.grad(losses.mean(), leaves)]

    exact = results(torch.float64, None)
    bounds = {
        torch.float16: (7e-4, 2e-5, 3.5e-4),
        torch.bfloat16: (4e-3, 6e-5, 3e-3),
        torch.float32: (3e-6, 1e-7, 1e-6),
    }
    for precision, (of_loss, of_mean, of_gradient) in bounds.items():
        losses, *grads = results(torch.float32, precision)
        assert (losses - exact[0]).abs().max() < of_loss
        assert abs(losses.double().mean() - exact[0].mean()) < of_mean
        for grad, wanted in zip(grads, exact[1:], strict=True):
            assert (grad - wanted).norm() < of_gradient * wanted.norm()
