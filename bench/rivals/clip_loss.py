"""The loss of the open_clip package."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.problems import Bound, Leaves, Problem
from bench.rivals.packages import need
from bench.shapes import NceShape


def clip_loss(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """open_clip's ClipLoss, the mean over the candidates, since it takes one text a video.

    Not the same loss: a cross-entropy each way, with the texts at the same place among the candidates as negatives.
    But the same products as ours, all logits of a candidate in memory. Returns a scalar.

    Raises:
        ImportError: no open_clip. ValueError: dropout, which this loss does not have.
    """
    shape = problem.shape
    assert isinstance(shape, NceShape)
    if dropout > 0:
        raise ValueError(f"open_clip's loss has no dropout, {dropout:g} was asked for")
    loss = need("open_clip.loss", "ClipLoss")()
    leaves = {name: problem.leaves[name].detach().clone().requires_grad_() for name in ("first_all", "second_all")}
    scale = 1 / shape.temperature

    def call() -> tuple[Tensor, ...]:
        video = leaves["first_all"].view(shape.videos, -1)
        losses = [loss(video, text, scale) for text in leaves["second_all"].unbind(1)]
        return (torch.stack(losses).mean(),)

    return call, leaves
