"""The order of a pass over shards: each clip once, the same in every process, mixed as well as its window allows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vatt.data.loader import Schedule
from vatt.data.order import clip_order

BATCH = 2048
GROUPS = np.repeat(np.arange(100), [400] * 99 + [37])  # the shard of each clip; the last shard is small
COUNT = len(GROUPS)


def order(epoch=0, window=0, seed=3):
    return clip_order(COUNT, [seed, 11, 0, epoch], GROUPS, window)


def same_shard(order_N):
    """Share of the pairs of a batch, over all batches, that come from one shard; and that of neighbours."""
    shard_N = GROUPS[order_N]
    pairs = []
    for first in range(0, COUNT - BATCH, BATCH):
        counts = np.bincount(shard_N[first : first + BATCH])
        pairs.append((counts * (counts - 1)).sum() / (BATCH * (BATCH - 1)))
    return np.mean(pairs), (shard_N[1:] == shard_N[:-1]).mean()


@pytest.mark.parametrize("window", [0, 1, 7, 20, 99, 100, 1000])
def test_each_clip_comes_once_and_the_same_each_time(window):
    first = order(0, window)
    assert sorted(first.tolist()) == list(range(COUNT))
    assert (order(0, window) == first).all()
    assert (order(1, window) == first).mean() < 0.01
    assert (order(0, window, seed=4) == first).mean() < 0.01


def test_without_windows_it_is_the_order_that_files_have():
    expected = np.random.default_rng([3, 11, 0, 5]).permutation(COUNT)
    assert (order(5) == expected).all()
    assert (clip_order(COUNT, [3, 11, 0, 5]) == expected).all()
    assert (clip_order(COUNT, [3, 11, 0, 5], None, 10) == expected).all()  # a folder has no shards
    assert (order(5, 100) == expected).all()  # one window holds all


@pytest.mark.parametrize("window", [0, 20, 10, 5])
def test_clips_of_a_shard_do_not_stick_together(window):
    """In a full permutation, two clips are of one of S shards with the chance 1 / S; in a window of N with 1 / N."""
    for epoch in range(3):
        pairs, neighbours = same_shard(order(epoch, window))
        expected = 1 / (window or 100)
        assert pairs < 1.15 * expected
        assert neighbours < 1.15 * expected


@pytest.mark.parametrize("window", [0, 20, 10])
def test_no_trace_of_the_packed_order_or_of_the_pass_before(window):
    place = np.arange(COUNT)
    found = [order(epoch, window) for epoch in range(8)]
    traces = [np.corrcoef(place, one)[0, 1] for one in found]
    traces += [np.corrcoef(np.argsort(one), np.argsort(two))[0, 1] for one, two in pairwise(found)]
    # Shards are drawn as a whole: their order has the traces of 100 independent items, not of 40,000.
    assert np.abs(traces).max() < (4 / np.sqrt(100) if window else 4 / np.sqrt(COUNT))
    assert np.abs(np.mean(traces)) < 0.15


@pytest.mark.parametrize("window", [30, 20, 7, 3])
def test_windows_hold_whole_shards_and_about_equally_many_clips(window):
    shard_N = GROUPS[order(2, window)]
    windows, sizes = -(-100 // window), np.array(_sizes(shard_N))
    assert len(sizes) == windows
    assert sizes.max() <= COUNT / windows + 400
    assert sizes.min() >= COUNT / windows - 400


def _sizes(shard_N):
    """Clips of each window: where it ends, no shard that came before comes again."""
    last = {shard: int(np.flatnonzero(shard_N == shard)[-1]) for shard in range(100)}
    sizes, begin, reach = [], 0, 0
    for place in range(COUNT):
        reach = max(reach, last[shard_N[place]])
        if place == reach:
            sizes.append(place + 1 - begin)
            begin = place + 1
    return sizes


@pytest.mark.parametrize("window", [0, 10])
def test_the_loader_follows_it(window):
    schedule = Schedule([COUNT, 5], [3.0, 1.0], 3, [GROUPS, None], window)
    picks = [pick for number in range(2 * COUNT) if (pick := schedule.pick(number)).source == 0]
    assert [pick.item for pick in picks[:COUNT]] == order(0, window).tolist()
    assert [pick.item for pick in picks[COUNT : COUNT + 500]] == order(1, window)[:500].tolist()
