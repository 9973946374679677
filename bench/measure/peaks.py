"""What a device can do at best: the rate of a large copy and of a large matrix product, measured in the same run; and
the lower bounds that follow for the operations.

``python -m bench lower-bounds`` prints the least time of each operation at each real shape, as a table of Markdown: the
larger of two times, the operations over the rate of a large matrix product and the bytes over the rate of a large copy.
What was predicted from them stands in bench/LOG.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.cases import SIZES
from bench.measure.timing import Timing, measure


@dataclass(frozen=True)
class DevicePeaks:
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

    def lower_bound_ms(self, flops: float, moved: float, dtype: torch.dtype) -> float:
        """No version runs faster: the larger of the time of the operations and that of the bytes ``moved``."""
        return 1e3 * max(moved / self.copy, flops / self.rate(dtype))


# NVIDIA H100 SXM data sheet, dense; and what an earlier reading of that machine type gave for a copy and for 8192^3 in
# bf16 (tf32 was not read: half of bf16, as on the data sheet).
DATASHEET = DevicePeaks(copy=3.35e12, matmul=989e12, tf32=494.5e12)
EARLIER = DevicePeaks(copy=3.0e12, matmul=798e12, tf32=399e12)

# Side of the product and bytes of the copy.
_LARGE = {"tiny": (256, 1 << 20), "cpu": (2048, 256 << 20), "gpu": (8192, 1 << 30)}


def measure_peaks(device: torch.device, size: str, seconds: float = 1.0) -> tuple[DevicePeaks, dict[str, Timing]]:
    """The best of about ``seconds`` of each (``size`` "tiny" only exercises the code). Random data everywhere: products
    of zeros draw less power and run faster."""
    cuda, (side, count), seconds = device.type == "cuda", _LARGE[size], 0.01 if size == "tiny" else seconds
    source = torch.randint(1, 256, (count,), dtype=torch.uint8, device=device)
    target = source.clone()
    timings = {"copy": measure(lambda: target.copy_(source), device, seconds)}
    before = torch.backends.cuda.matmul.allow_tf32
    for name in ("matmul", "tf32") if cuda else ("matmul",):
        dtype = torch.bfloat16 if cuda and name == "matmul" else torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        try:
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            for _ in range(3):
                a @ b
            timings[name] = measure(lambda a=a, b=b: a @ b, device, seconds)  # type: ignore[misc]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    copy = 2 * count / (timings["copy"].best * 1e-3)
    rates = [2 * side**3 / (timings[name].best * 1e-3) for name in timings if name != "copy"]
    return DevicePeaks(copy, *rates) if cuda else DevicePeaks(copy, *rates * 3), timings


def lower_bounds() -> Iterator[str]:
    """The lines of the table."""
    yield "| op, shape | pass | GFLOP | MB | H100 data sheet | H100, earlier reading |"
    yield "|---|---|---|---|---|---|"
    for case in SIZES["gpu"]:
        for backward in (False, True):
            cost = case.cost(backward)
            bounds = [peaks.lower_bound_ms(cost.flops, cost.bytes, case.dtype) for peaks in (DATASHEET, EARLIER)]
            cells = [f"{case.op} {case.name}", "both" if backward else "forward"]
            cells += [f"{cost.flops / 1e9:.1f}", f"{cost.bytes / 1e6:.1f}", *(f"{bound:.3g} ms" for bound in bounds)]
            yield "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m bench lower-bounds", description=__doc__).parse_args(arguments)
    print(*lower_bounds(), sep="\n")
    return 0
