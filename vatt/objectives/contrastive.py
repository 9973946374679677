"""The contrastive pretraining loss (paper, section 3.5; official utils/train/objectives.py).

Shapes: B clips on this rank, A clips on all ranks, C candidate sentences of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.distributed import Group, gather_rows
from vatt.kernels.nce import Rows, nce
from vatt.kernels.nce.reference import scale
from vatt.kernels.runtime import without_autocast
from vatt.models.config import LossConfig

# Logged name: (first embedding, second embedding). The text is second in the asymmetric loss, and so are the masks.
PAIRS: dict[str, tuple[str, str]] = {
    "vidtxt_loss": ("video/totxt", "text/tovid"),
    "vidaud_loss": ("video/toaud", "audio/tovid"),
    "audtxt_loss": ("audio/totxt", "text/toaud"),
}
PRODUCTS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ContrastiveLoss(nn.Module):
    """NCE between video and audio, MIL-NCE of both against text, with negatives from all ranks.

    It follows the official code where that differs from the paper: the weighted sum of the pairs is divided by the sum
    of their weights (equation 6 does not divide), and the asymmetric loss counts the positives twice in the denominator
    (equations 4 and 5 count them once). A video mask affects the symmetric loss only. Unlike the official code, which
    replaces a NaN loss of an item by 0, it keeps the NaN, so that the training loop sees it.

    Embeddings are normalised in float32 or wider. For the products (``config.precision``) rows of a model in half
    precision are rounded to float16 by default; sums, softmax and the gradients of the rows stay in float32.

    On several ranks the negatives are gathered with their gradient, while the mean over valid items counts the items
    of this rank only. So the mean loss over ranks equals the loss of the joined batch only if all ranks have equally
    many valid items; the official code does the same.
    """

    def __init__(self, config: LossConfig, backend: str = "auto") -> None:
        """Raises ValueError when no weight is positive, or the temperature is not."""
        super().__init__()
        weights = (config.vid_txt_weight, config.vid_aud_weight, config.aud_txt_weight)
        self.weights = dict(zip(PAIRS, weights, strict=True))
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"loss: the pair weights must be >= 0 and one of them > 0, got {self.weights}")
        self.temperature = config.temperature
        self.kind = config.kind
        self.precision = config.precision
        self.backend = backend

    def forward(
        self,
        embeddings: Mapping[str, Tensor],
        audio_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        video_mask: Tensor | None = None,
        group: Group = None,
    ) -> dict[str, Tensor]:
        """The loss of this rank.

        Args:
            embeddings: "video/toaud" and "audio/tovid" (B, D), "video/totxt" (B, D) and "text/tovid" (B*C, D, candidate
                fastest), "audio/totxt" (B, D) and "text/toaud" (B*C, D): those of the pairs with a positive weight.
            audio_mask, text_mask, video_mask: (B,), 1 where the clip has this modality, 0 where not.
            group: process group whose ranks share their negatives; None for all.

        Returns:
            Scalars in float32 or wider: "loss", and each used pair by name, already multiplied by its weight. Beside
            them, without gradient, what tells whether a pair learns, such as for "vidaud_loss": "vidaud_chance"
            (`chance`, multiplied by the weight) and "vidaud_video_cosine", "vidaud_audio_cosine" (`mean_cosine`).

        Raises:
            ValueError: a missing embedding, or shapes that do not fit; the message names it.
        """
        masks = {"audio": audio_mask, "text": text_mask, "video": video_mask}
        losses, signs = {}, {}
        for pair, weight in self.weights.items():
            if weight > 0:
                first, second, losses_B = self._pair(pair, embeddings, masks, group)
                losses[pair] = weight * losses_B.mean()
                short = pair.removesuffix("_loss")
                signs[f"{short}_chance"] = weight * chance(first, second, self.kind)
                for rows, name in zip((first, second), PAIRS[pair], strict=True):
                    signs[f"{short}_{name.partition('/')[0]}_cosine"] = mean_cosine(rows)
        total = torch.stack(list(losses.values())).sum() / sum(self.weights.values())
        return {"loss": total, **losses, **signs}

    def _pair(
        self, pair: str, embeddings: Mapping[str, Tensor], masks: Mapping[str, Tensor | None], group: Group
    ) -> tuple[Rows, Rows, Tensor]:
        """The rows of both sides, and the losses (B,)."""
        names = PAIRS[pair]
        for name in names:
            if name not in embeddings:
                raise ValueError(f"embeddings: {name!r} is missing, but {pair} has the weight {self.weights[pair]}")
        B = embeddings[names[0]].shape[0]
        first, second = (self._rows(name, embeddings[name], B, masks[name.partition("/")[0]], group) for name in names)
        losses_B = nce(
            first,
            second,
            temperature=self.temperature,
            kind=self.kind,
            precision=self._products(embeddings[names[0]]),
            backend=self.backend,
        )
        return first, second, losses_B

    def _products(self, embeddings: Tensor) -> torch.dtype | None:
        """The type of the products, None for that of the rows. Rows that come from a half type lose little in another,
        while a product of float32 takes three of tf32. Of the half types float16 is the more exact for unit rows."""
        if self.precision != "auto":
            return PRODUCTS[self.precision]
        return torch.float16 if embeddings.dtype in (torch.bfloat16, torch.float16) else None

    @staticmethod
    def _rows(name: str, x: Tensor, B: int, mask: Tensor | None, group: Group) -> Rows:
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[0] % B:
            raise ValueError(f"{name}: expected a multiple of {B} rows of embeddings, got {tuple(x.shape)}")
        x_fp32 = x.to(torch.promote_types(x.dtype, torch.float32))
        # The official code clamps the sum of squares at 1e-12, hence the norm at 1e-6.
        local_BCD = F.normalize(x_fp32, dim=-1, eps=1e-6).view(B, -1, x.shape[1])
        if mask is None:
            return Rows(local_BCD, gather_rows(local_BCD, group))
        if mask.shape != (B,):
            raise ValueError(f"{name.partition('/')[0]}_mask: expected ({B},), got {tuple(mask.shape)}")
        mask = mask.to(x_fp32)
        return Rows(local_BCD, gather_rows(local_BCD, group), mask, gather_rows(mask, group))


@torch.no_grad()
def chance(first: Rows, second: Rows, kind: str) -> Tensor:
    """The mean of `nce` over this rank if all embeddings were alike: with the same masks, candidates and negatives of
    all ranks. 0 where this rank has no valid item.

    All similarities are one number then, so the candidates cancel, and the logarithm of a number of items is left. An
    item meets the A2 valid ones of the second modality; it is met by the A1 valid ones of the first, which in the
    asymmetric loss are all A, for that has no mask of the first. Asymmetric: one softmax over both, log(A + A2), which
    is log(2A) without masks since the positives count twice. Symmetric: log(A1) + log(A2).
    """
    met = [
        rows.local.new_full((), rows.all.shape[0]) if rows.mask_all is None else rows.mask_all.sum()
        for rows in (first, second)
    ]
    B, A = first.local.shape[0], first.all.shape[0]
    if kind == "asymmetric":
        return scale((A + met[1]).log().expand(B), second.mask).mean()
    alike = met[0].clamp(min=1).log() + met[1].clamp(min=1).log()
    return scale(scale(alike.expand(B), first.mask), second.mask).mean()


@torch.no_grad()
def mean_cosine(rows: Rows) -> Tensor:
    """The mean cosine between different valid items of all ranks: 1 where all are alike, near 0 where they spread. NaN
    for fewer than two. From the sum of the unit rows, whose square is the sum of all cosines."""
    A, C, _ = rows.all.shape
    items_AD = rows.all[:, 0] if C == 1 else rows.all.sum(1)
    valid_A = items_AD.new_ones(A) if rows.mask_all is None else rows.mask_all
    with without_autocast(items_AD.device):
        total_D = valid_A @ items_AD
        own = valid_A @ torch.linalg.vector_norm(items_AD, dim=1).square()  # of pairs within one item
    count = valid_A.sum()
    return ((total_D.square().sum() - own) / (C * C * count * (count - 1))).masked_fill(count < 2, torch.nan)
