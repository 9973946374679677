"""Ranks of queries among videos, block by block: the matrix of all similarities is never held.

A query finds the videos in the order of their similarity. Its rank is 1 and the number of videos before its own; those
that are exactly as similar count as before it, so that embeddings which are all alike score nothing. Similarities are
products in float32. Where they lie too close to that of the own video to tell, they are computed again in float64, and
those within 1e-12 are equal: so the ranks do not depend on the sizes of the blocks, nor on how processes share the
videos out.

Each process holds its queries and its videos, which stay there; blocks of queries go round.

Shapes: Q queries, V videos, D width, B queries of a block, T thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

_QUERIES, _VIDEOS = 1024, 4096  # of a block: its similarities take 16 MB
_EQUAL = 1e-12  # between similarities in float64
_ULP = 2.0**-24  # of a product of float32, as a share
_PAIRS = 2**16  # of a block that are computed one by one in float64; more in a product of the whole block
_TOGETHER = 2**12  # of them at a time: their rows are copied


class Ranks(Protocol):
    """The processes that share queries and videos out."""

    rank: int
    count: int

    def broadcast(self, x: Tensor, owner: int) -> None:
        """Makes ``x`` that of the owner."""

    def sum(self, x: Tensor) -> None:
        """Makes ``x`` the sum over all."""

    def maximum(self, x: Tensor) -> None:
        """Makes ``x`` the largest of all."""

    def gather(self, item: Any) -> list[Any]:
        """The items of all."""


class Alone:
    """One process that has everything."""

    rank, count = 0, 1

    def broadcast(self, x: Tensor, owner: int) -> None:
        pass

    def sum(self, x: Tensor) -> None:
        pass

    def maximum(self, x: Tensor) -> None:
        pass

    def gather(self, item: Any) -> list[Any]:
        return [item]


class Together:
    """The ranks of a group of torch.distributed that can send tensors of the CPU."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)

    def broadcast(self, x: Tensor, owner: int) -> None:
        dist.broadcast(x, owner, group=self._group)

    def sum(self, x: Tensor) -> None:
        dist.all_reduce(x, dist.ReduceOp.SUM, group=self._group)

    def maximum(self, x: Tensor) -> None:
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self._group)

    def gather(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item, group=self._group)
        return items


@dataclass(frozen=True)
class Asked:
    """The queries of this process.

    Attributes:
        x_QD: float32, each of length 1.
        own_Q: int64, the number of each query's own video among those of this process.
        group_Q: int64, see `Found`.
    """

    x_QD: Tensor
    own_Q: Tensor
    group_Q: Tensor


@dataclass(frozen=True)
class Found:
    """The videos of this process.

    Attributes:
        x_VD: float32, none longer than 1.
        group_V: int64; those of a query's group are right as well. 0: of none.
    """

    x_VD: Tensor
    group_V: Tensor


@dataclass(frozen=True)
class QueryRanks:
    """Of the queries of this process: their ranks, int64 (Q,) from 1 on; the ranks of the best of all videos that are
    right, among those that are wrong; and how many are right."""

    rank_Q: Tensor
    equal_Q: Tensor
    right_Q: Tensor


def rank_queries(asked: Asked, found: Found, ranks: Ranks | None = None) -> QueryRanks:
    """The ranks of all queries. All processes must call; those without a query or a video take part."""
    ranks = ranks or Alone()
    widest = torch.tensor(max(asked.x_QD.shape[1], found.x_VD.shape[1]))
    ranks.maximum(widest)
    width, Q = int(widest), len(asked.x_QD)
    video_VD = found.x_VD if len(found.x_VD) else torch.empty(0, width)
    right_Q = _right(asked.group_Q, found.group_V, ranks)
    own_Q = _pairwise(asked.x_QD, found.x_VD, torch.arange(Q), asked.own_Q)
    best_Q, tied_Q = own_Q.clone(), torch.ones(Q, dtype=torch.int64)
    shared = (right_Q > 1).nonzero()[:, 0]
    for block in _blocks(asked.x_QD[shared], width, ranks, asked.group_Q[shared]):
        best_B, exact_BV = _best_right(block, found)
        ranks.maximum(best_B)
        tied_B = (exact_BV >= best_B[:, None] - _EQUAL).sum(1)
        ranks.sum(tied_B)
        if block.mine is not None:
            best_Q[shared[block.mine]], tied_Q[shared[block.mine]] = best_B, tied_B
    rank_Q, equal_Q = torch.empty(2, Q, dtype=torch.int64)
    similar, over = torch.empty(_QUERIES * _VIDEOS), np.empty(_QUERIES * _VIDEOS, bool)
    for block in _blocks(asked.x_QD, width, ranks, asked.group_Q, torch.stack([own_Q, best_Q], 1)):
        alike = bool((block.at_BT[:, 0] == block.at_BT[:, 1]).all())
        count_BT = _count(block.x_BD, block.at_BT[:, :1] if alike else block.at_BT, video_VD, similar, over)
        ranks.sum(count_BT)
        if block.mine is not None:
            rank_Q[block.mine], equal_Q[block.mine] = count_BT[:, 0], count_BT[:, -1]
    return QueryRanks(rank_Q, equal_Q - tied_Q + 1, right_Q)


@dataclass(frozen=True)
class _Block:
    """Queries of one process, which all have; ``mine``: where they are among those of this one, if they are its own."""

    x_BD: Tensor
    group_B: Tensor
    at_BT: Tensor
    mine: slice | None


def _blocks(x_QD: Tensor, width: int, ranks: Ranks, group_Q: Tensor, at_QT: Tensor | None = None) -> Iterator[_Block]:
    """The queries of one process after the other, with their groups and thresholds."""
    at_QT = torch.empty(len(x_QD), 2, dtype=torch.float64) if at_QT is None else at_QT
    sizes_R = torch.zeros(ranks.count, dtype=torch.int64)
    sizes_R[ranks.rank] = len(x_QD)
    ranks.sum(sizes_R)
    for owner, size in enumerate(sizes_R.tolist()):
        for first in range(0, size, _QUERIES):
            place = slice(first, min(first + _QUERIES, size))
            if owner == ranks.rank:
                parts = [x[place].contiguous() for x in (x_QD, group_Q, at_QT)]
            else:
                B = place.stop - first
                parts = [torch.empty(B, width), torch.empty(B, dtype=torch.int64), at_QT.new_empty(B, 2)]
            for x in parts:
                ranks.broadcast(x, owner)
            yield _Block(parts[0], parts[1], parts[2], place if owner == ranks.rank else None)


def _right(group_Q: Tensor, group_V: Tensor, ranks: Ranks) -> Tensor:
    """How many videos, of all processes, are of the group of each query; int64 (Q,), at least 1."""
    there = ranks.gather(group_V[group_V != 0].unique(return_counts=True))
    groups, order = torch.cat([groups for groups, _ in there]).unique(return_inverse=True)
    counts = torch.zeros(len(groups) + 1, dtype=torch.int64)
    counts.index_add_(0, order, torch.cat([count for _, count in there]))
    at_Q = torch.searchsorted(groups, group_Q)
    known_Q = torch.cat([groups, groups.new_zeros(1)])[at_Q] == group_Q
    return torch.where(known_Q & (group_Q != 0), counts[at_Q], 1).clamp(min=1)


def _pairwise(x_QD: Tensor, y_VD: Tensor, at_P: Tensor, to_P: Tensor) -> Tensor:
    """float64 (P,): similarities of single pairs, each a sum of its own."""
    return torch.cat(
        [
            (x_QD[at].double() * y_VD[to].double()).sum(1)
            for at, to in zip(at_P.split(_TOGETHER), to_P.split(_TOGETHER), strict=True)
        ]
        or [torch.empty(0, dtype=torch.float64)]
    )


def _best_right(block: _Block, found: Found) -> tuple[Tensor, Tensor]:
    """The highest similarity of each query to a video of its group here (float64 (B,), -inf without one); and to all
    those videos, (B, some of V), -inf for others."""
    some = torch.isin(found.group_V, block.group_B).nonzero()[:, 0]
    if not len(some):
        return torch.full((len(block.x_BD),), -torch.inf, dtype=torch.float64), torch.empty(len(block.x_BD), 0)
    exact_BV = block.x_BD.double() @ found.x_VD[some].double().T
    exact_BV[block.group_B[:, None] != found.group_V[some]] = -torch.inf
    return exact_BV.amax(1), exact_BV


def _count(x_BD: Tensor, at_BT: Tensor, video_VD: Tensor, similar: Tensor, over: np.ndarray) -> Tensor:
    """How many videos are at least as similar as each threshold; int64 (B, T). ``similar`` and ``over`` are memory."""
    bound = (x_BD.shape[1] + 4) * _ULP  # of the error of a sum of so many products, in whatever order
    low_BT, high_BT = (at_BT - bound).float(), (at_BT + bound).float()
    count_BT = torch.zeros(at_BT.shape, dtype=torch.int64)
    for part_VD in video_VD.split(_VIDEOS):
        size = len(x_BD) * len(part_VD)
        similar_BV, over_BV = similar[:size].view(len(x_BD), -1), over[:size].reshape(len(x_BD), -1)
        torch.mm(x_BD, part_VD.T, out=similar_BV)
        found_BV = similar_BV.numpy()  # NumPy compares and counts five times as fast
        for t in range(at_BT.shape[1]):
            low_B1, high_B1 = low_BT[:, t, None], high_BT[:, t, None]
            sure_B = np.count_nonzero(np.greater(found_BV, high_B1.numpy(), out=over_BV), axis=1)
            least_B = np.count_nonzero(np.greater_equal(found_BV, low_B1.numpy(), out=over_BV), axis=1)
            count_BT[:, t] += torch.from_numpy(sure_B)
            close = torch.from_numpy(np.flatnonzero(least_B > sure_B))
            if len(close):
                near_BV = (similar_BV[close] >= low_B1[close]) & (similar_BV[close] <= high_B1[close])
                count_BT[close, t] += _exactly(x_BD[close], part_VD, at_BT[close, t], near_BV)
    return count_BT


def _exactly(x_BD: Tensor, part_VD: Tensor, at_B: Tensor, near_BV: Tensor) -> Tensor:
    """How many of the pairs in ``near_BV`` are at least as similar as the threshold, in float64; int64 (B,)."""
    rows, columns = near_BV.nonzero(as_tuple=True)
    if len(rows) > _PAIRS:
        exact_BV = x_BD.double() @ part_VD.double().T
        return (near_BV & (exact_BV >= at_B[:, None] - _EQUAL)).sum(1)
    enough = _pairwise(x_BD, part_VD, rows, columns) >= at_B[rows] - _EQUAL
    return torch.zeros(len(x_BD), dtype=torch.int64).index_add_(0, rows, enough.long())
