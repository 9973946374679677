"""The matrices that resample position tables are kept: what is kept must serve every later call."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vatt.models.positions import _spline_matrix_on, resample, spline_matrix


@pytest.fixture(autouse=True)
def cold():
    for cached in (spline_matrix, _spline_matrix_on):
        cached.cache_clear()


def test_training_after_inference():
    table = nn.Parameter(torch.randn(8, 4))
    with torch.inference_mode():
        expected = resample(table, 5).clone()
    found = resample(table, 5)
    found.sum().backward()
    assert torch.equal(found, expected)
    assert table.grad is not None


def test_fake_tensors_leave_nothing_behind():
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert resample(torch.randn(1, 4), 5).shape == (5, 4)
    assert [cached.cache_info().currsize for cached in (spline_matrix, _spline_matrix_on)] == [0, 0]
    assert type(resample(torch.randn(1, 4), 5)) is torch.Tensor
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert resample(torch.randn(1, 4), 5).shape == (5, 4)
    assert type(resample(torch.randn(1, 4), 5)) is torch.Tensor
