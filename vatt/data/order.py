"""The order in which a pass reads the clips of a data set: a pure function of its key, the same in every process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clip_order(count: int, key: Sequence[int], groups: np.ndarray | None = None, window: int = 0) -> np.ndarray:
    """The numbers of ``count`` clips in a random order, int64 (N,).

    Without ``window`` it is a permutation of all clips. With it, the shards come in a random order that is cut into
    windows of ``window`` shards, with about equally many clips; a window is read before the next one, its clips in a
    random order. Both orders are new in each pass. So a disk or a cache serves few shards at a time.

    Args:
        key: of the random numbers: seed, data set, pass.
        groups: the shard of each clip (N,); None where the data set has none, and then there are no windows.
        window: shards; 0 for all.
    """
    rng = np.random.default_rng(list(key))
    if not window or groups is None:
        return rng.permutation(count)
    _, shard_N, sizes_S = np.unique(groups, return_inverse=True, return_counts=True)
    shards = len(sizes_S)
    windows = -(-shards // window)
    if windows <= 1:
        return rng.permutation(count)
    order_S = rng.permutation(shards)
    # A shard goes to the window in which the middle of its clips lies, were all windows equally long. A shard may be
    # much smaller than the others: the last one of each packing job.
    middles_S = sizes_S[order_S].cumsum() - sizes_S[order_S] / 2
    window_of_S = np.empty(shards, np.int64)
    window_of_S[order_S] = np.minimum(middles_S * windows / count, windows - 1).astype(np.int64)
    mixed = rng.permutation(count)
    return mixed[np.argsort(window_of_S[shard_N[mixed]], kind="stable")]
