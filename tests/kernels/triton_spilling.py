"""Kernels that `bench.checks.compiled` must find fault with, and some that it must not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl

from bench.cases.base import TENSOR_CORES, Compilation, Expect
from bench.checks.compiled import CompilationError, check, compile_case
from vatt.kernels.runtime import launch


@triton.jit
def divide(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, x / tl.sum(x, 0))


@triton.jit
def product(a_ptr, b_ptr, out_ptr, K, M: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr):
    rows, inner = tl.arange(0, M), tl.arange(0, BLOCK)
    total = tl.zeros([M, M], tl.float32)
    for start in range(0, K, BLOCK):
        a = tl.load(a_ptr + rows[:, None] * K + start + inner[None, :])
        b = tl.load(b_ptr + (start + inner[:, None]) * M + rows[None, :])
        if DOT:
            total = tl.dot(a, b, total)
        else:
            products = a.to(tl.float32)[:, :, None] * b.to(tl.float32)[None, :, :]
            total += tl.sum(tl.maximum(products, -1e38), 1)  # Triton 3.6 makes a plain sum of products a dot again
    tl.store(out_ptr + rows[:, None] * M + rows[None, :], total)


def _divide(size: int, offset: int = 0, warps: int = 4) -> None:
    x = torch.empty(offset + size, device="meta")[offset:]
    launch(divide, (1,), x, torch.empty_like(x), SIZE=size, num_warps=warps)


def _product(side: int, depth: int, dot: bool, stages: int) -> None:
    a = torch.empty(side, 1024, dtype=torch.bfloat16, device="meta")
    out = torch.empty(side, side, device="meta")
    launch(product, (1,), a, a.mT, out, 1024, M=side, BLOCK=depth, DOT=dot, num_warps=4, num_stages=stages)


def _case(name: str, run: Callable[[], None]) -> Compilation:
    kernel = "divide" if run.func is _divide else "product"  # type: ignore[attr-defined]
    matrix = TENSOR_CORES if kernel == "product" else None
    return Compilation("test", name, run, {} if name == "unexpected" else {kernel: Expect(matrix)})


CASES = [
    _case("sound", partial(_divide, 1024)),
    _case("spilling", partial(_divide, 16384, warps=1)),  # 512 numbers a thread; it has 255 registers
    _case("narrow", partial(_divide, 1024, offset=1)),
    _case("unexpected", partial(_divide, 1024)),
    _case("matrix", partial(_product, 64, 64, True, 2)),
    _case("replaced", partial(_product, 16, 16, False, 1)),
    _case("crowded", partial(_product, 128, 128, True, 6)),
]


def _found(case: Compilation, arch: str) -> list[str]:
    try:
        return check(compile_case(case, arch), [case])
    except CompilationError as error:
        return [str(error)]


def faults() -> dict[str, list[str]]:
    """What is found in each case. In a process that interprets no kernels."""
    return {case.name: _found(case, "sm_90") for case in CASES}
