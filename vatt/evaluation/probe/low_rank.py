"""The paper's linear classifier of low rank, on features that do not change.

Shapes: N samples, B samples of a step, D width, R components, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vatt.objectives.classification import multi_label_loss, single_label_loss
from vatt.optim import Adam


@dataclass(frozen=True)
class LowRankConfig:
    """The paper's numbers (appendix; section 4.2.4)."""

    components: int = 128
    sampled: float = 0.1  # share of the components that take part in a step
    lr: float = 5e-4
    batch_size: int = 64
    steps: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sampled <= 1 or min(self.components, self.batch_size, self.steps) < 1 or self.lr <= 0:
            raise ValueError("sampled must be in (0, 1], lr above 0, and components, batch_size and steps 1 or more")


class LowRank(nn.Module):
    """logits = (x U) V + b, where a training step uses only some of the R components.

    Each step draws its components anew, the same for all of its samples, and scales them by R / (number drawn), as
    dropout does, so that evaluation can use all of them. The others have no gradient in that step; Adam's moments still
    move them.
    """

    def __init__(self, width: int, classes: int, config: LowRankConfig = LowRankConfig()) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.components, bias=False)
        self.up = nn.Linear(config.components, classes)
        self.drawn = max(1, round(config.sampled * config.components))

    def forward(self, x_BD: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits (B, K); ``generator`` draws the components in training mode."""
        if not self.training:
            return self.up(self.down(x_BD))
        components = self.up.in_features
        chosen = torch.randperm(components, generator=generator)[: self.drawn]
        low_BR = x_BD @ self.down.weight[chosen].T  # the others would be multiplied by 0
        return low_BR @ self.up.weight[:, chosen].T * (components / self.drawn) + self.up.bias


def fit_low_rank(
    x_ND: Tensor, target_NK: Tensor, config: LowRankConfig = LowRankConfig(), multi: bool = False
) -> LowRank:
    """Trains a classifier on features with Adam; the same for the same seed.

    Args:
        x_ND: float32, standardised by the caller.
        target_NK: 0 and 1, one class per sample or, with ``multi``, any number.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LowRank(x_ND.shape[1], target_NK.shape[1], config).train()
    optimizer = Adam(model.parameters(), lr=config.lr, foreach=True)
    loss_of = multi_label_loss if multi else single_label_loss
    for _ in range(config.steps):
        picked = torch.randint(len(x_ND), (config.batch_size,), generator=generator)
        loss = loss_of(model(x_ND[picked], generator), target_NK[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
