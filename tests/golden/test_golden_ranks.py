"""Two gloo ranks against one process on the joined batch, for the whole model of full_*.npz."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import assert_close, load, loaded
from tests.golden.ranks import run_on_ranks
from tests.golden.test_golden_full import FILES, batch, build

# Both sides run in float64, so that rounding (amplified by the batch statistics) does not hide a wrong term.
EXACT = 1e-9


def joined(name, masks):
    """Model in float64 and the batch, doubled if it is too small for two ranks."""
    golden = load(name)
    model = loaded(build(golden), golden).double().train()
    for module in model.modules():
        if hasattr(module, "sync"):
            module.sync = True
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch(golden).items()}
    if masks == "none":
        inputs.pop("audio_mask"), inputs.pop("text_mask")
    if masks == "balanced":  # as many valid items on each rank
        clips = inputs["video"].shape[0]
        inputs["audio_mask"] = (torch.arange(clips) % (clips // 2) != 0).double()
        inputs["text_mask"] = (torch.arange(clips) % (clips // 2) != 1).double()
    return model, inputs


def losses_and_gradients(model, inputs, ranks):
    losses = model(inputs, seed=0)
    (losses["loss"] / ranks).backward()
    statistics = {k: v.clone() for k, v in model.named_buffers()}
    return {k: v.detach() for k, v in losses.items()}, statistics, model


def on_rank(rank, ranks, name, masks):
    model, inputs = joined(name, masks)
    losses, statistics, model = losses_and_gradients(model, {k: v.chunk(ranks)[rank] for k, v in inputs.items()}, ranks)
    return losses, statistics, {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("masks", ["none", "balanced", "recorded"])
@pytest.mark.parametrize("name", FILES)
def test_two_ranks_equal_one_process(name, masks):
    """Without masks, and with equally many valid items a rank, mean loss and gradients are those of the joined batch.

    With the recorded masks, whose valid counts differ between the ranks, the official semantics say that they are not.
    """
    model, inputs = joined(name, masks)
    losses, statistics, model = losses_and_gradients(model, inputs, 1)
    results = run_on_ranks(on_rank, 2, name, masks)
    mean = {key: (results[0][0][key] + results[1][0][key]) / 2 for key in losses}
    for key, value in statistics.items():
        for _, theirs, _ in results:
            assert_close(theirs[key], value.numpy(), 1e-6, key)
    valid = [inputs[k].chunk(2) for k in ("audio_mask", "text_mask") if k in inputs]
    if any(one.sum() != other.sum() for one, other in valid):
        assert abs(float(mean["loss"] - losses["loss"])) > 1e-4
        return
    for key in losses:
        assert_close(mean[key], losses[key].numpy(), EXACT, key)
    for key, parameter in model.named_parameters():
        if parameter.grad is None:
            assert key not in results[0][2]
            continue
        total = results[0][2][key] + results[1][2][key]
        assert_close(total, parameter.grad.numpy(), EXACT, key, atol=1e-12)
