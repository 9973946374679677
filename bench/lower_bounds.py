"""``python -m bench lower-bounds``: the least time of each operation at each real shape, as a table of Markdown.

The larger of two times: the operations over the rate of a large matrix product, and the bytes over the rate of a large
copy (`bench.cases.base`, `bench.measure.peaks`). What was predicted from them stands in bench/LOG.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from bench.cases import SIZES
from bench.measure.peaks import DATASHEET, EARLIER


def table() -> Iterator[str]:
    """Its lines."""
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
    print(*table(), sep="\n")
    return 0
