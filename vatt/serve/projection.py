"""The map of a collection: its vectors in two dimensions, near where they are alike, and in groups."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from vatt.errors import UserError
from vatt.extras import install

MOST_POINTS = 3000  # on a map: beyond them, a sample evenly spread over the collection
_PLAIN = 12  # below so many points, t-SNE has no neighbours to keep
_GROUPS = 8


class MapError(UserError, RuntimeError):
    """The map cannot be drawn."""


@dataclass(frozen=True)
class Map:
    """The places in [0, 1] (P, 2) of the vectors, their groups (P,) from the largest on, and how it was made."""

    places: np.ndarray
    groups: np.ndarray
    method: str


def spread(count: int, most: int) -> np.ndarray:
    """All numbers below ``count``, or ``most`` of them, evenly spread."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(int)


def project(x_PD: np.ndarray, seed: int = 0) -> Map:
    """PCA to at most 32 dimensions, then t-SNE to two; k-means groups. The same vectors give the same map.

    Raises:
        MapError: scikit-learn is not installed.
    """
    if len(x_PD) < 3:
        line = np.linspace(0.25, 0.75, len(x_PD)) if len(x_PD) > 1 else np.full(len(x_PD), 0.5)
        return Map(np.stack([line, np.full(len(x_PD), 0.5)], 1), np.zeros(len(x_PD), int), "in order")
    try:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MapError(f"the map needs scikit-learn: {install('serve')}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of vectors that are all the same
        few = min(32, *x_PD.shape)
        small = np.nan_to_num(PCA(few, random_state=seed).fit_transform(x_PD))
        places, method = small[:, :2], "PCA"
        if len(x_PD) >= _PLAIN and small.std() > 0:
            perplexity = min(30.0, (len(x_PD) - 1) / 3)
            places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(small)
            method = "t-SNE"
        different = len(np.unique(small.round(6), axis=0))
        groups = KMeans(min(_GROUPS, different, max(2, len(x_PD) // 4)), random_state=seed, n_init=3).fit_predict(small)
    if places.shape[1] < 2:
        places = np.concatenate([places, np.zeros_like(places)], 1)
    return Map(_fitted(places), _by_size(groups), method)


def _fitted(places_P2: np.ndarray) -> np.ndarray:
    """In [0, 1], with the same scale of both sides."""
    low, high = places_P2.min(0), places_P2.max(0)
    scale = max(float((high - low).max()), 1e-9)
    return (places_P2 - (low + high) / 2) / scale + 0.5


def _by_size(groups: np.ndarray) -> np.ndarray:
    """Numbered from the largest on, so that colours do not depend on chance."""
    found, counts = np.unique(groups, return_counts=True)
    rank = np.empty(int(found.max()) + 1, int)
    rank[found[np.argsort(-counts, kind="stable")]] = np.arange(len(found))
    return rank[groups]
