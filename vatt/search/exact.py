"""Exact search: the dot product of a query with every vector, read from a memory map in blocks.

Vectors are stored in float16, half the bytes of float32, and multiplied in float32. Shapes: N vectors, D width.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 22  # values that are converted at a time: they stay in the cache of a core


def dot_products(vectors_ND: np.ndarray, query_D: np.ndarray) -> np.ndarray:
    """float32 (N,)."""
    query_D = np.asarray(query_D, np.float32)
    count, width = vectors_ND.shape
    found_N, block = np.empty(count, np.float32), max(1, _BLOCK // max(1, width))
    for first in range(0, count, block):
        part = vectors_ND[first : first + block].astype(np.float32)
        np.dot(part, query_D, out=found_N[first : first + block])
    return found_N


def best_first(scores_N: np.ndarray, allowed_N: np.ndarray, count: int) -> np.ndarray:
    """Ids of the ``count`` best of those that are allowed, the best first; equal ones in their order."""
    ids = np.flatnonzero(allowed_N)
    scores = scores_N[ids]
    if count < len(ids):
        least = np.partition(scores, len(ids) - count)[len(ids) - count]
        ids, scores = ids[scores >= least], scores[scores >= least]
    order = np.argsort(-scores, kind="stable")[:count]
    return ids[order]
