"""The floor of each kernel at each real shape, and a prediction made before anything was measured.

``python -m bench.floors`` prints a table for bench/LOG.md. A floor is the larger of two times: the operations over the
rate of a large matrix product, and the bytes over the rate of a large copy (`bench.costs`, `bench.roofs`). A prediction
is the floor over an efficiency, which `EFFICIENCIES` names for each kernel with its reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.costs import cost
from bench.measure.peaks import DATASHEET, EARLIER
from bench.shapes import REAL, Shape

DROPOUT = 0.1


@dataclass(frozen=True)
class Efficiency:
    """Share of the floor's rate that a kernel is expected to reach: forward pass and both, without and with dropout."""

    forward: float
    both: float
    forward_dropout: float
    both_dropout: float
    why: str

    def of(self, backward: bool, dropout: bool) -> float:
        if backward:
            return self.both_dropout if dropout else self.both
        return self.forward_dropout if dropout else self.forward


EFFICIENCIES = {
    "patch_embed": Efficiency(
        *(0.50, 0.45, 0.48, 0.42),
        "pixels are converted in registers between load and product (about half the cycles of the product), and each "
        "tile of pixels is read once a block of columns; with dropout the gradient of the tokens is masked in a pass "
        "of its own (77 MB each way)",
    ),
    "attention": Efficiency(
        *(0.45, 0.40, 0.22, 0.21),
        "at head dim 64 the exponentials take as many cycles as the products and overlap with them in part; the "
        "backward pass makes 7 products where 5 would do; the hash of dropout is about 10 integer instructions a "
        "score, 2.5 times the cycles of the forward products",
    ),
    "attention text": Efficiency(
        *(0.30, 0.20, 0.30, 0.20), "17 tokens fill half of a block of 32; a program lasts a few microseconds"
    ),
    "norm": Efficiency(
        *(0.85, 0.80, 0.85, 0.80), "one pass each way over rows in 16-byte accesses; the hash hides behind memory"
    ),
    "mlp": Efficiency(
        *(0.66, 0.70, 0.66, 0.70),
        "cuBLAS at 90% of the rate of 8192^3, and one pass over the hidden layer each way at 85% of the rate of a copy",
    ),
    "block": Efficiency(
        *(0.55, 0.50, 0.48, 0.42), "its parts: projections at 88%, MLP, norms and attention as in their rows"
    ),
    "nce": Efficiency(
        *(0.50, 0.39, 0.50, 0.39),
        "exponentials hide behind products that are 256 deep; the backward pass computes the similarities again for "
        "each of its four gradients",
    ),
    "nce float32": Efficiency(
        *(0.45, 0.22, 0.45, 0.22),
        "as above, and twice: a program makes 128 of the 256 columns of a gradient (four parts at width 512, so less "
        "than this); the operands of the three products of tf32 are split in registers",
    ),
}


def efficiency(shape: Shape) -> Efficiency:
    if shape.op == "attention" and getattr(shape, "text", False):
        return EFFICIENCIES["attention text"]
    return EFFICIENCIES["nce float32" if shape.op == "nce" and shape.dtype == torch.float32 else shape.op]


def table() -> Iterator[str]:
    """Lines of a markdown table."""
    yield "| op, shape | pass | GFLOP | MB | floor, data sheet | floor, earlier roofs | predicted, p = 0 | p = 0.1 |"
    yield "|---|---|---|---|---|---|---|---|"
    for shape in REAL:
        for backward in (False, True):
            plain, dropped = (cost(shape, backward, p) for p in (0.0, DROPOUT))
            expected = efficiency(shape)
            floors = [roofs.floor_ms(plain, shape.dtype) for roofs in (DATASHEET, EARLIER)]
            predicted = [floors[1] / expected.of(backward, False)]
            if shape.has_dropout:
                predicted.append(EARLIER.floor_ms(dropped, shape.dtype) / expected.of(backward, True))
            cells = [f"{shape.op} {shape.name}", "both" if backward else "forward"]
            cells += [f"{plain.flops / 1e9:.1f}", f"{plain.bytes / 1e6:.1f}", *map(_ms, floors), *map(_ms, predicted)]
            yield "| " + " | ".join(cells + [""] * (8 - len(cells))) + " |"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def assumptions() -> Iterator[str]:
    """What the predictions rest on, a line for each kernel."""
    for name, expected in EFFICIENCIES.items():
        shares = [expected.of(backward, dropout) for dropout in (False, True) for backward in (False, True)]
        numbers = ", ".join(f"{share:.0%}" for share in shares[:2])
        dropped = f"; with dropout {shares[2]:.0%}, {shares[3]:.0%}" if shares[2:] != shares[:2] else ""
        yield f"- {name}: {numbers}{dropped} (forward, both passes): {expected.why}."


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m bench.floors", description=__doc__).parse_args(arguments)
    for text in (*table(), "", *assumptions()):
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
