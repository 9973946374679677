"""Which clip a training sample is: a pure function of its number, so that a position is just a step.

Several data sets mix at given weights by a fixed cycle that has each of them as evenly spread as can be. Within one
data set the clips come in an order that is drawn anew for each pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_CYCLE = 1000  # samples after which the mixing repeats: weights are kept to a thousandth


@dataclass(frozen=True)
class Pick:
    """Sample ``count`` of data set ``source``: its clip ``item``."""

    source: int
    count: int
    item: int


@dataclass
class Schedule:
    """Deals the samples of data sets with ``sizes`` clips at ``weights`` (any positive numbers)."""

    sizes: list[int]
    weights: list[float]
    seed: int
    _cycle: np.ndarray = field(init=False, repr=False)
    _before: np.ndarray = field(init=False, repr=False)
    _orders: dict[int, tuple[int, np.ndarray]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._cycle = _mixing_cycle(self.weights)
        once = self._cycle[:, None] == np.arange(len(self.sizes))
        self._before = np.concatenate([np.zeros((1, len(self.sizes)), int), once.cumsum(0)])

    def pick(self, number: int) -> Pick:
        """The clip of the sample with this number, counted from 0 over all steps and ranks."""
        cycles, place = divmod(number, len(self._cycle))
        source = int(self._cycle[place])
        count = int(cycles * self._before[-1, source] + self._before[place, source])
        epoch, index = divmod(count, self.sizes[source])
        return Pick(source, count, int(self._order(source, epoch)[index]))

    def _order(self, source: int, epoch: int) -> np.ndarray:
        """The order of the clips in one pass; the last one asked for is kept."""
        known = self._orders.get(source)
        if known is None or known[0] != epoch:
            order = np.random.default_rng([self.seed, 11, source, epoch]).permutation(self.sizes[source])
            self._orders[source] = known = (epoch, order)
        return known[1]


def _mixing_cycle(weights: list[float]) -> np.ndarray:
    """Data set numbers in proportion to the weights: at each place, the one that lags most behind its share."""
    if len(weights) == 1:
        return np.zeros(1, int)
    share = np.asarray(weights, float) / sum(weights)
    credit = np.zeros(len(weights))
    cycle = np.empty(_CYCLE, int)
    for place in range(_CYCLE):
        credit += share
        cycle[place] = np.argmax(credit)
        credit[cycle[place]] -= 1
    return cycle
