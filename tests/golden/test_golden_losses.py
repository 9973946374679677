"""The contrastive losses against loss_*.npz, on one rank and on several."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import GRADIENT, assert_close, load
from tests.golden.ranks import run_on_ranks
from vatt.models.config import LossConfig
from vatt.objectives.contrastive import ContrastiveLoss

ONE = ["loss_asymmetric_nce", "loss_symmetric_nce"]
SEVERAL = ["loss_asymmetric_nce_2replicas", "loss_symmetric_nce_2replicas"]
# A gradient that is 0 (masked items) must be 0 up to this part of the largest gradient of the file.
ZERO = 1e-7


def build(config, variant):
    official = {**config, **variant.get("override", {})}
    assert official.pop("loss_weight") == 1
    kind = official.pop("name").removesuffix("_nce")
    return ContrastiveLoss(LossConfig(kind=kind, **{k: v for k, v in official.items() if k != "variants"}))


def inputs(golden, variant, rank=0, ranks=1):
    """This rank's part of the embeddings, as leaves, and of the masks of the variant."""
    part = {}
    for name in golden.inputs:
        rows = golden.tensor(name)
        part[name] = rows.chunk(ranks)[rank].clone()
    masks = {name: part[f"masks/{source}"] for name, source in variant["masks"].items()}
    embeddings = {name: value.requires_grad_() for name, value in part.items() if not name.startswith("masks/")}
    return embeddings, masks


def compare_gradients(golden, variant, grads):
    recorded = {k.removeprefix(f"{variant}/"): v for k, v in golden.grads.items() if k.startswith(f"{variant}/")}
    assert recorded
    largest = max(abs(v).max() for v in golden.grads.values())
    for name, expected in recorded.items():
        assert_close(grads[name], expected, GRADIENT, f"{variant}/{name}", atol=ZERO * largest)


@pytest.mark.parametrize("name", ONE)
def test_one_rank(name):
    golden = load(name)
    for variant, settings in golden.config["variants"].items():
        embeddings, masks = inputs(golden, settings)
        losses = build(golden.config, settings)(embeddings, **masks)
        recorded = {k.removeprefix(f"{variant}/"): v for k, v in golden.outputs.items() if k.startswith(f"{variant}/")}
        assert recorded.keys() == {key for key in losses if key.endswith("loss")}
        for key, expected in recorded.items():
            assert_close(losses[key], expected, name=f"{variant}/{key}")
        losses["loss"].backward()
        compare_gradients(golden, variant, {k: v.grad for k, v in embeddings.items()})


VARIANTS = [(name, variant) for name in SEVERAL for variant in load(name).config["variants"]]


def on_rank(rank, ranks):
    """Losses and gradients of every variant on this rank."""
    results = []
    for name, variant in VARIANTS:
        golden = load(name)
        settings = golden.config["variants"][variant]
        assert settings["replicas"] == ranks
        embeddings, masks = inputs(golden, settings, rank, ranks)
        losses = build(golden.config, settings)(embeddings, **masks)
        (losses["loss"] / ranks).backward()  # what averaging over ranks does
        grads = {k: v.grad for k, v in embeddings.items() if v.grad is not None}
        results.append(({k: v.detach() for k, v in losses.items()}, grads))
    return results


@pytest.fixture(scope="module")
def by_variant():
    """What each rank got, by variant. One start of the processes serves all."""
    name, variant = VARIANTS[0]
    ranks = load(name).config["variants"][variant]["replicas"]
    return dict(zip(VARIANTS, zip(*run_on_ranks(on_rank, ranks), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_several_ranks(name, variant, by_variant):
    golden, results = load(name), by_variant[name, variant]
    for key, expected in golden.outputs.items():
        if not key.startswith(f"{variant}/"):
            continue
        place, _, loss = key.removeprefix(f"{variant}/").rpartition("/")
        if place:
            actual = results[int(place.removeprefix("replica"))][0][loss]
        else:
            actual = torch.stack([losses[loss] for losses, _ in results]).mean()
        assert_close(actual, expected, name=key)
    joined = {key: torch.cat([grads[key] for _, grads in results]) for key in results[0][1]}
    compare_gradients(golden, variant, joined)
