"""How much slower one side is than the other, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Time of this tree over that of the base: the median over rounds, and the interval that holds it."""

    median: float
    low: float
    high: float

    def verdict(self, threshold: float) -> str:
        """ "SLOWER" or "faster" if the whole interval lies beyond the threshold, "unclear" if only the median does."""
        if self.low > 1 + threshold:
            return "SLOWER"
        if self.high < 1 / (1 + threshold):
            return "faster"
        beyond = self.median > 1 + threshold or self.median < 1 / (1 + threshold)
        return "unclear" if beyond else "same"


def least_rounds() -> int:
    """With fewer, not even the smallest and the largest ratio hold the median with CONFIDENCE."""
    return math.ceil(1 - math.log2(1 - CONFIDENCE))


def ratio(new: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> Ratio:
    """From the times of both sides, round by round.

    The two medians of a round were taken next to each other, so a machine that grows slower divides out. The interval
    is between two order statistics of the ratios: it assumes no distribution and holds the median with CONFIDENCE.

    Raises:
        ValueError: fewer rounds than `least_rounds`, or sides of different length.
    """
    found = sorted(statistics.median(a) / statistics.median(b) for a, b in zip(new, base, strict=True))
    count = len(found)
    if count < least_rounds():
        raise ValueError(f"{count} rounds; at least {least_rounds()} are needed for {CONFIDENCE:.0%} confidence")
    # Probability that the median lies below the smallest, then below the second smallest, ...
    outside, cut = 0.5**count, 0
    while 2 * (more := outside + math.comb(count, cut + 1) * 0.5**count) <= 1 - CONFIDENCE:
        outside, cut = more, cut + 1
    return Ratio(statistics.median(found), found[cut], found[-1 - cut])
