"""Squared ReLU: the reference by hand, and the kernels against the reference."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.conftest import (
    Case,
    check_compiled,
    check_half,
    check_layout,
    check_memory,
    check_reference,
    check_repeats,
    needs_triton,
    randn,
)
from vatt.kernels import BackendError, explain, squared_relu


def case(*shape):
    return Case(lambda backend, x: squared_relu(x, backend=backend), {"x": randn(*shape)})


def test_the_reference_by_hand():
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    out = squared_relu(x, backend="torch")
    assert out.tolist() == [0.0, 0.0, 9.0]
    assert torch.autograd.grad(out.sum(), x)[0].tolist() == [0.0, 0.0, 6.0]


def test_the_cpu_takes_plain_pytorch_and_says_why():
    rows = {row.backend: row for row in explain("squared_relu", "cpu")}
    assert list(rows) == ["triton", "torch"]
    assert rows["torch"].chosen
    assert rows["triton"].reasons
    with pytest.raises(BackendError, match="squared_relu: unknown backend 'cuda'; there are: auto, triton, torch"):
        squared_relu(torch.zeros(3), backend="cuda")


@needs_triton
@pytest.mark.parametrize("shape", [(1,), (7, 3), (1025,), (0, 4)])
def test_kernels_equal_the_reference(shape):
    check_reference(case(*shape))


@needs_triton
@pytest.mark.parametrize("check", [check_repeats, check_layout, check_compiled, check_memory])
def test_kernels_are_well_behaved(check):
    check(case(5, 300))


@needs_triton
def test_kernels_in_half_precision():
    check_half(case(5, 300), torch.float16)
