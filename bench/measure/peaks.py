"""What the device can do at best: the rate of a large copy and of a large matrix product, measured in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.costs import Cost
from bench.measure.timing import Timing, measure


@dataclass(frozen=True)
class Roofs:
    """``copy`` in bytes a second, read and written; ``matmul`` (bfloat16) and ``tf32`` in operations a second.
    ``float32`` is that of a CPU, which has no tf32; there ``matmul`` is the same."""

    copy: float
    matmul: float
    tf32: float
    float32: float | None = None

    def rate(self, dtype: torch.dtype) -> float:
        """Of products in ``dtype``. One of float32 that is to be exact takes three of tf32 on the matrix units."""
        if dtype == torch.float32:
            return self.tf32 / 3 if self.float32 is None else self.float32
        return self.matmul

    def floor_ms(self, cost: Cost, dtype: torch.dtype) -> float:
        """No version runs faster: the larger of the time of the bytes and the time of the operations."""
        return 1e3 * max(cost.bytes / self.copy, cost.flops / self.rate(dtype))


# NVIDIA H100 SXM data sheet, dense; and what an earlier reading of that machine type gave for a copy and for 8192^3 in
# bf16 (tf32 was not read: half of bf16, as on the data sheet).
DATASHEET = Roofs(copy=3.35e12, matmul=989e12, tf32=494.5e12)
EARLIER = Roofs(copy=3.0e12, matmul=798e12, tf32=399e12)


# Side of the product and bytes of the copy; the tiny ones only exercise the code.
_LARGE = {"tiny": (256, 1 << 20), "cpu": (2048, 256 << 20), "gpu": (8192, 1 << 30)}


def measure_roofs(device: torch.device, size: str, seconds: float = 1.0) -> tuple[Roofs, dict[str, Timing]]:
    """The best of about a second of each. Random data everywhere: products of zeros draw less power and run faster.
    ``size``: of `bench.shapes.SIZES`."""
    cuda, (side, count) = device.type == "cuda", _LARGE[size]
    timings = {"copy": _copy(count, device, seconds)}
    kinds = {"matmul": torch.bfloat16, "tf32": torch.float32} if cuda else {"matmul": torch.float32}
    for name, dtype in kinds.items():
        with _tf32(name == "tf32"):
            timings[name] = _product(side, dtype, device, seconds)
    copy = 2 * count / (timings["copy"].best * 1e-3)
    rates = {name: 2 * side**3 / (timings[name].best * 1e-3) for name in kinds}
    if cuda:
        return Roofs(copy, rates["matmul"], rates["tf32"]), timings
    return Roofs(copy, rates["matmul"], rates["matmul"], rates["matmul"]), timings


def _copy(size: int, device: torch.device, seconds: float) -> Timing:
    source = torch.randint(1, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return measure(lambda: target.copy_(source), device, seconds)


def _product(side: int, dtype: torch.dtype, device: torch.device, seconds: float) -> Timing:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return measure(lambda: a @ b, device, seconds)


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
