"""DropToken (paper, section 3.3): train on a random part of the patches."""

from __future__ import annotations

import torch
from torch import Tensor

from vatt.models.config import DropTokenConfig


class DropToken:
    """Draws which patches are kept.

    The number kept is int(patch_sampling_rate * number of configured position buckets), whatever the input's size: as
    the official code does; the paper samples a portion of the tokens. The official code also has one permutation for
    the whole batch, which is the default here; ``sample_per_item`` draws one an item. The official code refuses a rate
    of 1; here it means that nothing is dropped.
    """

    def __init__(self, config: DropTokenConfig, buckets: int, section: str) -> None:
        """``section`` is the part of the configuration that errors name, such as "video".

        Raises:
            ValueError: the rate is outside (0, 1], or leaves no patch.
        """
        rate = config.patch_sampling_rate
        if not 0 < rate <= 1:
            raise ValueError(f"{section}.patch_sampling_rate: must be in (0, 1], got {rate}")
        self.enabled = config.random_patch_sampling and rate < 1
        self.kept = int(rate * buckets)
        if self.enabled and self.kept == 0:
            raise ValueError(f"{section}.patch_sampling_rate: {rate} of {buckets} buckets keeps no patch")
        self.per_item = config.sample_per_item
        self.section = section

    def draw(self, batch: int, tokens: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Indices of the kept patches: (kept,), or (batch, kept) per item; int64 on the CPU. None: all are kept.

        Args:
            batch: number of items.
            tokens: number of patches of one item.
            generator: a CPU generator; None is PyTorch's default one.

        Raises:
            ValueError: there are fewer patches than are to be kept.
        """
        if not self.enabled:
            return None
        if tokens < self.kept:
            raise ValueError(
                f"{self.section}: DropToken keeps {self.kept} patches (patch_sampling_rate of the configured buckets), "
                f"but the input has {tokens}; lower {self.section}.patch_sampling_rate or the max_*_buckets"
            )
        if self.per_item:
            return torch.rand(batch, tokens, generator=generator).argsort(dim=1)[:, : self.kept]
        return torch.randperm(tokens, generator=generator)[: self.kept]
