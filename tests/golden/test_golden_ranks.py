"""Two gloo ranks against one process on the joined batch, for the whole model of full_*.npz."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import assert_close, load, loaded
from tests.golden.ranks import run_on_ranks
from tests.golden.test_golden_full import FILES, batch, build
from vatt.models.heads import BatchNorm

# Both sides run in float64, so that rounding (amplified by the batch statistics) does not hide a wrong term.
EXACT = 1e-9
CASES = [(name, masks) for name in FILES for masks in ("none", "balanced", "recorded")]


def joined(name, masks):
    """The model in float64 with synchronised batch norm, and the whole batch."""
    golden = load(name)
    model = loaded(build(golden), golden).double().train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.sync = True
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch(golden).items()}
    clips = inputs["video"].shape[0]
    if masks == "none":
        del inputs["audio_mask"], inputs["text_mask"]
    elif masks == "balanced":  # as many valid items on each rank
        inputs["audio_mask"] = (torch.arange(clips) % (clips // 2) != 0).double()
        inputs["text_mask"] = (torch.arange(clips) % (clips // 2) != 1).double()
    return model, inputs


def run(model, inputs, ranks):
    """Losses, running statistics and gradients of the mean loss over ranks."""
    losses = model(inputs, seed=0)
    (losses["loss"] / ranks).backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, dict(model.named_buffers()), grads


def on_rank(rank, ranks):
    results = []
    for name, masks in CASES:
        model, inputs = joined(name, masks)
        results.append(run(model, {k: v.chunk(ranks)[rank] for k, v in inputs.items()}, ranks))
    return results


@pytest.fixture(scope="module")
def by_case():
    """What each rank got, by case. One start of the processes serves all."""
    return dict(zip(CASES, zip(*run_on_ranks(on_rank, 2), strict=True), strict=True))


@pytest.mark.parametrize(("name", "masks"), CASES)
def test_two_ranks_equal_one_process(name, masks, by_case):
    """Without masks, and with equally many valid items a rank, mean loss and gradients are those of the joined batch.

    With other masks the official semantics say that they are not (README, Losses: "with masks whose valid counts differ
    between replicas it does not"). The batch statistics are those of the joined batch in any case.
    """
    model, inputs = joined(name, masks)
    losses, statistics, grads = run(model, inputs, 1)
    results = by_case[name, masks]
    for key, value in statistics.items():
        for _, theirs, _ in results:
            assert_close(theirs[key], value.numpy(), 1e-6, key)
    mean = {key: (results[0][0][key] + results[1][0][key]) / 2 for key in losses}
    valid = [inputs[k].chunk(2) for k in ("audio_mask", "text_mask") if k in inputs]
    if any(one.sum() != other.sum() for one, other in valid):
        assert abs(float(mean["loss"] - losses["loss"])) > 1e-4
        return
    for key in losses:
        assert_close(mean[key], losses[key].numpy(), EXACT, key)
    assert results[0][2].keys() == grads.keys()
    for key, grad in grads.items():
        assert_close(results[0][2][key] + results[1][2][key], grad.numpy(), EXACT, key, atol=1e-12)
