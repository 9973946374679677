"""Two gloo ranks against one process on the joined batch, for the whole model of full_*.npz.

The ranks must have equally many clips. Of a file with an odd number, the last clip is left out on both sides: nothing
recorded is compared here, so the clips need not be all that there are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden.golden import REFERENCE, assert_close, load, loaded
from tests.golden.ranks import run_on_ranks
from tests.golden.test_golden_full import FILES, batch, build
from vatt.models.heads import BatchNorm

# Both sides run in float64, so that rounding (amplified by the batch statistics) does not hide a wrong term.
EXACT = 1e-9
RANKS = 2
CASES = [(name, masks) for name in FILES for masks in ("none", "balanced", "recorded")]
CASES += [("full_cnn_fac", "balanced")]  # whose backbones have batch norms


def joined(name, masks):
    """The model in float64 with synchronised batch norm, and the clips of the batch that two ranks can share."""
    golden = load(name)
    model = loaded(build(golden), golden).double().train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.sync = True
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch(golden).items()}
    share = inputs["video"].shape[0] // RANKS
    inputs = {k: v[: RANKS * share] for k, v in inputs.items()}
    if masks == "none":
        del inputs["audio_mask"], inputs["text_mask"]
    elif masks == "balanced":  # as many valid items on each rank, and one that is not if there is another
        place = torch.arange(RANKS * share) % share
        inputs["audio_mask"] = ((place != 0) | (share == 1)).double()
        inputs["text_mask"] = (place != 1).double()
    return model, inputs


def run(model, inputs, ranks):
    """Losses, running statistics and gradients of the mean loss over ranks."""
    losses = model(inputs, seed=0)
    (losses["loss"] / ranks).backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, dict(model.named_buffers()), grads


def on_rank(rank, ranks, cases):
    results = []
    for name, masks in cases:
        model, inputs = joined(name, masks)
        results.append(run(model, {k: v.chunk(ranks)[rank] for k, v in inputs.items()}, ranks))
    return results


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Cases of files like the recorded ones, with 5 clips: the recorded ones, over and over."""
    clips, folder = 5, tmp_path_factory.mktemp("odd")
    for name in FILES:
        with np.load(REFERENCE / f"{name}.npz") as archive:
            arrays = dict(archive)
        before = len(arrays["input/video"])
        for key in [key for key in arrays if key.startswith("input/")]:
            rows = arrays[key].reshape(before, -1, *arrays[key].shape[1:])
            arrays[key] = rows[np.arange(clips) % before].reshape(-1, *arrays[key].shape[1:])
        np.savez(folder / f"{name}.npz", **arrays)
    return [(str(folder / name), "recorded") for name in FILES]


@pytest.fixture(scope="module")
def by_case(odd):
    """What each rank got, by case. One start of the processes serves all."""
    cases = [(name, masks) for name, masks in CASES if load(name).inputs["video"].shape[0] >= RANKS] + odd
    return dict(zip(cases, zip(*run_on_ranks(on_rank, RANKS, cases), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "masks"), CASES)
def test_two_ranks_equal_one_process(name, masks, by_case):
    """Without masks, and with equally many valid items a rank, mean loss and gradients are those of the joined batch.

    With other masks the official semantics say that they are not (README, Losses: "with masks whose valid counts differ
    between replicas it does not"). The batch statistics are those of the joined batch in any case.
    """
    if (name, masks) not in by_case:
        pytest.skip(f"{name}: fewer clips than ranks")
    compare(name, masks, by_case[name, masks])


@pytest.mark.slow
def test_an_odd_batch_leaves_its_last_clip_out(odd, by_case):
    for case in odd:
        assert len(joined(*case)[1]["video"]) == 4
        compare(*case, by_case[case])


def compare(name, masks, results):
    """What the ranks got against one process on the joined batch."""
    model, inputs = joined(name, masks)
    losses, statistics, grads = run(model, inputs, 1)
    for key, value in statistics.items():
        for _, theirs, _ in results:
            assert_close(theirs[key], value.numpy(), 1e-6, key)
    mean = {key: (results[0][0][key] + results[1][0][key]) / 2 for key in losses}
    valid = [inputs[k].chunk(RANKS) for k in ("audio_mask", "text_mask") if k in inputs]
    if any(one.sum() != other.sum() for one, other in valid):
        assert abs(float(mean["loss"] - losses["loss"])) > 1e-6
        return
    for key in losses:
        assert_close(mean[key], losses[key].numpy(), EXACT, key)
    assert results[0][2].keys() == grads.keys()
    for key, grad in grads.items():
        assert_close(results[0][2][key] + results[1][2][key], grad.numpy(), EXACT, key, atol=1e-12)
