"""What `bench.compiled` compiles: the calls of the kernels that the models make, at their shapes, in bfloat16.

A new operation adds a function that calls its launchers on tensors from `_meta`, and one `Case` to `CASES`. Triton is
imported inside these functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")  # A100, H100, B200
MMA = dict.fromkeys(ARCHITECTURES, ("mma",))  # tiles too small for the instructions of a warp group
TENSOR_CORES = {"sm_80": ("mma",), "sm_90": ("wgmma",), "sm_100": ("tcgen05",)}  # the fastest of each chip


@dataclass(frozen=True)
class Expect:
    """What the compiled code of one kernel must have.

    ``matrix``: by architecture, the matrix instructions that it may use, and one of which it must use; None for a
    kernel without products. ``wide``: accesses of 16 bytes move most of what it reads and writes.
    """

    matrix: Mapping[str, tuple[str, ...]] | None = None
    wide: bool = True


@dataclass(frozen=True)
class Case:
    """``run`` launches kernels on tensors without memory; ``expect`` has an entry for each of them by its name."""

    op: str
    name: str
    run: Callable[[], None]
    expect: Mapping[str, Expect]


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _norm(rows: int, width: int, centred: bool, p: float) -> None:
    from vatt.kernels.norm import triton_kernels

    x, residual, weight = _meta(rows, width), _meta(rows, width), _meta(width)
    bias = _meta(width) if centred else None
    seed = _meta(1, dtype=torch.int64) if p > 0 else None
    total, normed, mean, rstd = triton_kernels.forward(x, residual, weight, bias, seed, 1e-6, p)
    triton_kernels.backward(total, normed, total, weight, mean if centred else None, rstd, seed, p)


NORM = {"norm_forward": Expect(), "norm_backward": Expect()}

CASES = [
    *(Case("norm", f"layer_{width}", partial(_norm, 64 * 785, width, True, 0.1), NORM) for width in (512, 768, 1024)),
    Case("norm", "rms_512", partial(_norm, 320 * 17, 512, False, 0.1), NORM),
]
