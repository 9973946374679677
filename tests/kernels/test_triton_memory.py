"""What the kernels allocate at real sizes, seen on tensors without memory: nothing of the size that they avoid."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vatt.kernels.runtime import recording

pytest.importorskip("triton")


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in numbers."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def largest(run):
    """Of the allocations of ``run`` as on an H100."""
    launched = []
    with recording(lambda kernel, *rest: launched.append(kernel), "sm90"), Largest() as seen:
        run()
    assert launched
    return seen.numel


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_contrastive_loss_grows_with_the_rows_and_not_with_the_pairs(dtype):
    from vatt.kernels.nce import triton_launch

    def run(videos):
        query, key = (meta(n, 256, dtype=dtype) for n in (videos, 5 * videos))
        valid, lse, key_lse = (meta(n, dtype=torch.float32) for n in (5 * videos, videos, 5 * videos))
        for keys in (True, False):
            triton_launch.lse(query, key, None, valid, 0.07, keys)
        pairs = (lse, lse), (key_lse, key_lse)
        triton_launch.gradient(query, key, None, valid, *pairs, 0.07, torch.float32)
        triton_launch.gradient(key, query, valid, None, *pairs[::-1], 0.07, torch.float32)

    sizes = [largest(lambda n=n: run(n)) for n in (32768, 65536)]
    assert sizes[0] < 32768 * 5 * 32768 / 100
    assert sizes[1] <= 2 * sizes[0]
    # Few local rows against many far ones: the loop is split, but into few more parts than fill the GPU.
    assert largest(lambda: run(64)) < 300 * 64 * 5 * 256


def test_patch_embedding_never_holds_the_patches():
    from vatt.kernels.patch_embed import triton_launch

    video, kept = meta(64, 32, 224, 224, 3, dtype=torch.uint8), meta(784, dtype=torch.int64)
    weight, positions = meta(768, 3072), meta(1568, 768)
    tokens = 64 * 785 * 768

    def run():
        out = triton_launch.forward(
            video, weight, None, [4, 16, 16], kept, positions, weight[:, 0].contiguous(), None, 0.0
        )
        grad, sums = triton_launch.rows_gradient(out, 1, None, 0.0)
        triton_launch.weight_gradient(grad, video, [4, 16, 16], kept, 1)
        triton_launch.positions_gradient(grad, sums, 1568, kept, 1)

    assert largest(run) == tokens < 64 * 784 * math.prod((4, 16, 16, 3))


def test_attention_never_holds_the_scores():
    from vatt.kernels.attention import triton_launch

    segments, heads = ((64, 785), (64, 601), (320, 17)), 12
    rows, masked = sum(count * length for count, length in segments), [False] * 3

    def run():
        qkv = meta(rows, 3, heads, 64)
        out, lse = triton_launch.forward(qkv, segments, masked, None, None, None, 0.125, 0.0)
        triton_launch.backward(out, qkv, out, lse, segments, masked, None, None, None, 0.125, 0.0)

    assert largest(run) == rows * 3 * heads * 64 < 64 * heads * 785**2
