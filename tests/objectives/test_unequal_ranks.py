"""Ranks that come together with different sizes: an error on each of them that names both, no abort and no hang."""

from __future__ import annotations

import pytest
import torch

from tests.golden.ranks import run_on_ranks
from train.core.ranks import agree
from vatt.distributed import UnequalRanks, check_equal, gather_rows
from vatt.models.config import LossConfig
from vatt.objectives.contrastive import ContrastiveLoss

pytestmark = pytest.mark.slow


def loss(batch, sentences, masked=False):
    """The loss of a batch of random embeddings, each clip with so many sentences."""
    generator = torch.Generator().manual_seed(batch)
    clips = {name: torch.randn(batch, 4, generator=generator) for name in ("video/toaud", "video/totxt", "audio/tovid")}
    embeddings = {**clips, "text/tovid": torch.randn(batch * sentences, 4, generator=generator)}
    for x in embeddings.values():
        x.requires_grad_()
    found = ContrastiveLoss(LossConfig())(embeddings, text_mask=torch.ones(batch) if masked else None)["loss"]
    found.backward()
    return found.detach()


def message(function, *args):
    try:
        function(*args)
    except UnequalRanks as error:
        return str(error)
    return "no error"


def on_rank(rank, ranks):
    unequal = [
        message(loss, 5 - 2 * rank, 2),
        message(loss, 4, 2 + rank),
        message(gather_rows, torch.zeros(3 + rank)),
        message(gather_rows, torch.zeros(2, 3) if rank else torch.zeros(2, 3, 1)),
        message(check_equal, "steps", [7 + rank]),
        message(agree, [False], 4 - rank),
    ]
    # All ranks go on together after the errors.
    assert agree([rank == 1, False], 4) == [True, False]
    check_equal("steps", [7])
    return unequal, loss(3, 2, masked=True)


@pytest.fixture(scope="module")
def by_rank():
    return run_on_ranks(on_rank, 2)


def test_every_rank_is_told_both_sizes(by_rank):
    for unequal, _ in by_rank:
        batch, sentences, rows, axes, steps, step = unequal
        assert "(5, 1, 4) on rank 0, (3, 1, 4) on rank 1" in batch
        assert "(4, 2, 4) on rank 0, (4, 3, 4) on rank 1" in sentences
        assert rows == "gather_rows, shape: must be equal on all ranks, but is 3 on rank 0, 4 on rank 1"
        assert "(2, 3, 1) on rank 0, (2, 3) on rank 1" in axes
        assert steps == "steps: must be equal on all ranks, but is 7 on rank 0, 8 on rank 1"
        assert "others have between 3 and 4" in step
    assert ["this one has 4" in by_rank[0][0][-1], "this one has 3" in by_rank[1][0][-1]] == [True, True]


def test_equal_ranks_go_on(by_rank):
    assert all(torch.isfinite(value) for _, value in by_rank)


def test_one_process_compares_nothing():
    check_equal("steps", [1])
    x = torch.zeros(3, 2)
    assert gather_rows(x) is x
