"""The contrastive loss apart from the recorded numbers: lengths of embeddings, chance and spread, and errors."""

from __future__ import annotations

import math

import pytest
import torch

from tests.golden.ranks import run_on_ranks
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


THREE = {"vid_txt_weight": 0.5, "vid_aud_weight": 2.0, "aud_txt_weight": 1.0}
SIDES = {"vidtxt": ("video", "text"), "vidaud": ("video", "audio"), "audtxt": ("audio", "text")}


def embeddings_of(batch, sentences, seed=None):
    """Random rows, or with ``seed`` None rows that are all alike, of three pairs."""
    g, row = torch.Generator().manual_seed(seed or 0), torch.linspace(-1, 2, 6, dtype=torch.float64)
    names = dict.fromkeys(("video/totxt", "video/toaud", "audio/tovid", "audio/totxt"), batch)
    names |= dict.fromkeys(("text/tovid", "text/toaud"), batch * sentences)
    return {
        name: torch.randn(rows, 6, dtype=torch.float64, generator=g) if seed is not None else row.repeat(rows, 1)
        for name, rows in names.items()
    }


def masks_of(batch, audio=(), text=(), video=()):
    """1 but at these places."""
    masks = {"audio_mask": audio, "text_mask": text, "video_mask": video}
    return {
        name: torch.ones(batch).index_fill(0, torch.tensor(places, dtype=torch.long), 0.0)
        for name, places in masks.items()
    }


MASKS = [{}, masks_of(8), masks_of(8, (0, 3), (3, 4, 7), (5,)), masks_of(8, range(8), (0, 1, 2, 3, 4, 5, 6))]
LOSSES = [
    (kind, sentences, number) for kind in ("asymmetric", "symmetric") for sentences in (1, 3) for number in range(4)
]


def chances(kind, sentences, number, rank=0, ranks=1):
    """On this rank's part of 8 clips: the losses of rows that are alike, and what the loss of other rows calls their
    chance."""
    part = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
    masks = {name: mask[part] for name, mask in MASKS[number].items()}
    loss, batch = ContrastiveLoss(LossConfig(kind=kind, **THREE)), 8 // ranks
    alike, spread = (loss(embeddings_of(batch, sentences, seed), **masks) for seed in (None, rank))
    return [torch.stack([x[f"{pair}_{what}"] for pair in SIDES]) for x, what in ((alike, "loss"), (spread, "chance"))]


@pytest.mark.parametrize(("kind", "sentences", "number"), LOSSES)
def test_chance_is_the_loss_of_embeddings_that_are_all_alike(kind, sentences, number):
    alike, chance = chances(kind, sentences, number)
    torch.testing.assert_close(chance, alike, rtol=1e-6, atol=1e-6)
    if number < 2:
        expected = math.log(16) if kind == "asymmetric" else 2 * math.log(8)
        assert chance.tolist() == pytest.approx([weight * expected for weight in THREE.values()])
    if number == 3:  # no sound
        assert (chance == 0).tolist() == [False, True, kind == "symmetric"]


def chances_on_rank(rank, ranks):
    return [torch.stack(chances(*case, rank, ranks)) for case in LOSSES]


@pytest.mark.slow
def test_chance_counts_the_negatives_of_all_ranks():
    """Also where the ranks have unequally many valid items, or one of them none."""
    for found in run_on_ranks(chances_on_rank, 2):
        for alike, chance in found:
            torch.testing.assert_close(chance, alike, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("sentences", [1, 3])
def test_the_mean_cosine_is_that_of_different_valid_clips(sentences, number):
    rows, masks = embeddings_of(8, sentences, 5), MASKS[number]
    found = ContrastiveLoss(LossConfig(**THREE))({name: x.requires_grad_() for name, x in rows.items()}, **masks)
    for pair, sides in SIDES.items():
        for side, name in zip(sides, contrastive.PAIRS[f"{pair}_loss"], strict=True):
            x = torch.nn.functional.normalize(rows[name], dim=1).unflatten(0, (8, -1))
            cosines = torch.einsum("icd,jsd->ijcs", x, x).mean((2, 3))
            valid = masks.get(f"{side}_mask", torch.ones(8)).bool()
            pairs = valid[:, None] & valid[None] & ~torch.eye(8, dtype=torch.bool)
            cosine = found[f"{pair}_{side}_cosine"]
            torch.testing.assert_close(cosine, cosines[pairs].mean())
            assert not cosine.requires_grad


def test_the_mean_cosine_at_its_ends():
    loss = ContrastiveLoss(LossConfig(**THREE))
    alike = loss({name: x.float() for name, x in embeddings_of(8, 3).items()})
    alone = loss(embeddings_of(8, 3, 0), **masks_of(8, audio=range(1, 8)))
    for name in (f"{pair}_{side}_cosine" for pair, sides in SIDES.items() for side in sides):
        assert alike[name].item() == pytest.approx(1.0, abs=1e-6)
        assert alike[name].dtype == torch.float32
        assert alone[name].isnan() == ("audio" in name)  # of one clip there is none
