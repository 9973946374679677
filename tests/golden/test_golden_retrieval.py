"""Retrieval figures against metrics.npz of the official code."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import load
from vatt.evaluation.retrieval import chance, ranks, retrieval, similarity


@pytest.fixture(scope="module")
def metrics():
    return load("metrics")


SIMILARITIES = {  # name in the file: (video embeddings, average_embeddings, normalize)
    "n1": ("video_embd_1", True, False),
    "n1_normalize_embd": ("video_embd_1", True, True),
    "n1_normalize_sim": ("video_embd_1", False, True),
    "windows_embd": ("video_embd_w", True, True),
    "windows_embd_raw": ("video_embd_w", True, False),
    "windows_sim": ("video_embd_w", False, True),
}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity(metrics, name):
    video, average, normalize = SIMILARITIES[name]
    windows = metrics.config["n_windows"] if video.endswith("w") else 1
    ours = similarity(
        metrics.tensor("embd"), metrics.tensor(video), windows, average_embeddings=average, normalize=normalize
    )
    golden = torch.from_numpy(metrics.outputs[f"sim/{name}"])
    assert (ours - golden).abs().max() <= 1e-5 * golden.abs().max()


def recorded(metrics, group):
    return [metrics.outputs[f"{group}/{key}"].item() for key in ("R1", "R5", "R10", "MedianRank")]


@pytest.mark.parametrize("group", ["retrieval", "retrieval_windows_embd", "retrieval_windows_sim"])
def test_recall_and_median_rank(metrics, group):
    if group == "retrieval":
        matrix = metrics.tensor("similarity")
    else:
        matrix = torch.from_numpy(metrics.outputs[group.replace("retrieval_", "sim/")])
    found = retrieval(matrix)
    assert [found.r1, found.r5, found.r10, found.median_rank] == pytest.approx(recorded(metrics, group), abs=1e-9)


def test_embeddings_that_are_all_alike_score_nothing():
    assert retrieval(torch.ones(50, 50)).r10 == 0
    assert ranks(torch.eye(3)).tolist() == [1, 1, 1]
    assert chance(9, 50).r5 == pytest.approx(0.1)
    with pytest.raises(ValueError, match="query_QD: holds values that are not finite"):
        similarity(torch.full((2, 3), float("nan")), torch.ones(2, 3))
    with pytest.raises(ValueError, match="no multiple of 4 windows"):
        similarity(torch.ones(2, 3), torch.ones(6, 3), 4)
