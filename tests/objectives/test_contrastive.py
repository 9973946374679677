"""The contrastive loss apart from the recorded numbers: lengths of embeddings, and errors."""

from __future__ import annotations

import pytest
import torch

from vatt.models.config import LossConfig
from vatt.objectives import contrastive
from vatt.objectives.contrastive import ContrastiveLoss

ONE = torch.ones(1)


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


def test_the_type_of_the_products(monkeypatch):
    """Of a model in half precision they are float16 unless the setting says otherwise; else those of the rows."""
    seen = []
    monkeypatch.setattr(contrastive, "nce", lambda *rows, **options: seen.append((rows[0].local.dtype, options)) or ONE)
    draw = torch.Generator().manual_seed(0)
    expected = {
        ("auto", torch.float32): None,
        ("auto", torch.float64): None,
        ("auto", torch.bfloat16): torch.float16,
        ("auto", torch.float16): torch.float16,
        ("fp32", torch.bfloat16): torch.float32,
        ("fp16", torch.float32): torch.float16,
        ("bf16", torch.float32): torch.bfloat16,
    }
    for (precision, dtype), products in expected.items():
        x = torch.randn(4, 8, generator=draw).to(dtype)
        loss = ContrastiveLoss(LossConfig(vid_aud_weight=0, precision=precision))
        loss({"video/totxt": x, "text/tovid": x})
        rows, options = seen.pop()
        assert options["precision"] == products
        assert rows == torch.promote_types(dtype, torch.float32)  # normalised, and gathered, in float32 or wider


def test_products_of_a_half_type_stay_near_those_of_float32():
    draw = torch.Generator().manual_seed(0)
    x = [torch.randn(32, 256, generator=draw).bfloat16().requires_grad_() for _ in range(2)]
    results = []
    for precision in ("auto", "fp32"):
        loss = ContrastiveLoss(LossConfig(vid_aud_weight=0, precision=precision))
        value = loss({"video/totxt": x[0], "text/tovid": x[1]})["loss"]
        assert value.dtype == torch.float32
        results.append((value.detach(), *torch.autograd.grad(value, x)))
    (rounded, *grads), (exact, *wanted) = results
    assert not torch.equal(rounded, exact)
    assert abs(rounded - exact) < 2e-4
    for grad, want in zip(grads, wanted, strict=True):
        assert (grad - want).float().norm() < 0.005 * want.float().norm()
