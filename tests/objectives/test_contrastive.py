"""The contrastive loss apart from the recorded numbers: lengths of embeddings, and errors."""

from __future__ import annotations

import pytest
import torch

from vatt.models.config import LossConfig
from vatt.objectives.contrastive import ContrastiveLoss


def test_loss_does_not_see_the_length_of_embeddings():
    """Down to a norm of 1e-6, where the official clamp begins; zeros are finite, with a finite gradient."""
    loss, g = ContrastiveLoss(LossConfig(vid_aud_weight=0)), torch.Generator().manual_seed(0)
    video, text = (torch.randn(rows, 3, dtype=torch.float64, generator=g) for rows in (4, 8))
    expected = loss({"video/totxt": video, "text/tovid": text})["loss"]
    torch.testing.assert_close(loss({"video/totxt": 1e-5 * video, "text/tovid": text})["loss"], expected)
    zeros = torch.zeros(4, 3, requires_grad=True)
    value = loss({"video/totxt": zeros, "text/tovid": text.float()})["loss"]
    value.backward()
    assert value.isfinite()
    assert zeros.grad.isfinite().all()


def test_losses_name_what_is_wrong():
    loss = ContrastiveLoss(LossConfig())
    x = {"video/totxt": torch.rand(4, 3), "text/tovid": torch.rand(8, 3)}
    with pytest.raises(ValueError, match=r"'video/toaud' is missing, but vidaud_loss has the weight 1\.0"):
        loss(x)
    with pytest.raises(ValueError, match="text/tovid: expected a multiple of 4 rows"):
        loss({**x, "text/tovid": torch.rand(7, 3)})
    with pytest.raises(ValueError, match=r"text_mask: expected \(4,\)"):
        loss(x, text_mask=torch.ones(3))
