"""The quickened interpreter leaves Triton's language as it was."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.conftest import DEVICE, INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="of Triton's interpreter")
triton = pytest.importorskip("triton")
tl = triton.language


@triton.jit
def doubled(x):
    return x + x


@triton.jit
def double(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, doubled(tl.load(x_ptr + at)) + tl.zeros([SIZE], tl.int32))


def run():
    x = torch.tensor([1, 2, 3, 5], dtype=torch.int32, device=DEVICE)
    out = torch.zeros_like(x)
    double[(1,)](x, out, SIZE=4)
    return out.tolist()


def test_the_language_is_as_before_after_each_launch():
    names = [name for name in dir(tl) if getattr(getattr(tl, name), "__triton_builtin__", False)]
    before = {name: getattr(tl, name) for name in names}
    assert len(names) > 50
    for _ in range(2):
        assert run() == [2, 4, 6, 10]
        assert {name: getattr(tl, name) for name in names} == before
