"""DropToken: how many patches, which, at what cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.train.engine_job import batch_of, small_model
from vatt import distributed
from vatt.kernels.patch_embed.reference import gather_patches
from vatt.models import Classifier, VideoBackbone, WaveformBackbone
from vatt.models.config import VideoConfig, WaveformConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.pretraining import Pretraining

SMALL = dict(num_layers=2, d_model=16, d_kv=4, d_ff=32, num_heads=2, dropout_rate=0.0, position_dropout_rate=0.0)
VIDEO = VideoConfig(
    **SMALL,
    temporal_patch_size=2,
    spatial_patch_size=4,
    max_temporal_buckets=4,
    max_vertical_buckets=4,
    max_horizontal_buckets=4,
)
AUDIO = WaveformConfig(**SMALL, temporal_patch_size=8, max_temporal_buckets=40)


def clip(batch=2):
    return torch.randint(0, 256, (batch, 8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(model, x, seed):
    return model(x, generator=torch.Generator().manual_seed(seed))["features"]


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.77])
def test_number_kept_comes_from_the_configured_buckets(rate):
    model = VideoBackbone(replace(VIDEO, patch_sampling_rate=rate)).train()
    for frames in (8, 12):  # a longer clip keeps as many
        out = model(torch.zeros(1, frames, 16, 16, 3))
        assert out["features"].shape[1] == int(rate * 64)
    assert model.eval()(torch.zeros(1, 12, 16, 16, 3))["features"].shape[1] == 96


@pytest.mark.parametrize("per_item", [False, True])
def test_the_generator_decides(per_item):
    torch.manual_seed(0)
    model = VideoBackbone(replace(VIDEO, sample_per_item=per_item)).train()
    x = clip()
    assert torch.equal(seeded(model, x, 1), seeded(model, x, 1))
    assert not torch.equal(seeded(model, x, 1), seeded(model, x, 2))


def test_one_permutation_a_batch_or_one_an_item():
    """The same clip twice: equal rows with one permutation, other patches with two."""
    torch.manual_seed(0)
    x = clip(1).expand(2, -1, -1, -1, -1)
    shared = seeded(VideoBackbone(VIDEO).double().train(), x, 1)
    torch.testing.assert_close(shared[0], shared[1])
    single = seeded(VideoBackbone(replace(VIDEO, sample_per_item=True)).train(), x, 1)
    assert not torch.allclose(single[0], single[1])
    drop = VideoBackbone(replace(VIDEO, sample_per_item=True)).tokens.drop_token
    kept = drop.draw(100, 64, torch.Generator().manual_seed(3))
    assert all(len(set(row.tolist())) == 32 for row in kept)
    counts = torch.bincount(kept.flatten(), minlength=64)
    assert counts.min() > 20
    assert counts.max() < 80


def small(name, per_item):
    config = small_model(name)
    for part in (config.video, config.waveform, config.unified):
        part.sample_per_item, part.patch_sampling_rate = per_item, 0.5
    torch.manual_seed(0)
    return Pretraining(config)


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
@pytest.mark.parametrize("per_item", [False, True])
def test_patches_are_drawn_before_the_forward_pass(name, per_item):
    """Whoever draws them, module or caller: the same patches, so the same losses. Evaluation draws none."""
    module, batch = small(name, per_item), batch_of(0, poison=False)
    drawn = module.train().draw(batch, 7)
    assert {key: value.dtype for key, value in drawn.items()} == dict.fromkeys(
        ("video_kept", "audio_kept"), torch.int64
    )
    assert all(value.ndim == 1 + per_item for value in drawn.values())
    losses = []
    for inputs in (batch, batch | drawn, batch | module.draw(batch, 8)):
        torch.manual_seed(1)  # of dropout
        losses.append(module(inputs, 7)["loss"].item())
    assert losses[0] == losses[1] != losses[2]
    assert module.eval().draw(batch, 7) == {}


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
@pytest.mark.parametrize("per_item", [False, True])
def test_patches_per_item_follow_the_place_in_the_batch_and_not_ranks_or_parts(name, per_item, monkeypatch):
    """The official permutation is one for the batch, on all ranks; per item, each place of the batch has its own."""
    module, batch = small(name, per_item).train(), batch_of(0, poison=False)
    draws = []
    for rank, first, seed in ((0, 0, 7), (0, 8, 7), (1, None, 7), (0, None, 8)):
        monkeypatch.setattr(distributed, "rank", lambda number=rank: number)
        draws.append(module.draw(batch, seed, first))
    for key in ("video_kept", "audio_kept"):
        one, second, other_rank, other_seed = (drawn[key] for drawn in draws)
        assert torch.equal(second, other_rank)  # the second rank begins at place 8
        assert torch.equal(one, second) != per_item
        assert not torch.equal(one, other_seed)
        if per_item:
            assert len(set(map(tuple, torch.cat([one, second]).tolist()))) == 16
            parts = [{name: x[at : at + 2] for name, x in batch.items()} for at in range(0, 8, 2)]
            found = [module.draw(part, 7, 2 * number)[key] for number, part in enumerate(parts)]
            assert torch.equal(torch.cat(found), one)
    if per_item:
        assert draws[0]["video_kept"].tolist() != draws[0]["audio_kept"].tolist()


def test_fine_tuning_too():
    backbone = VideoBackbone(replace(VIDEO, sample_per_item=True))
    module = Finetuning(Classifier(backbone, 3), TargetConfig(mixup=1.0)).train()
    batch = {"x": clip(4), "target": torch.eye(3)[[0, 1, 2, 0]]}
    draws = []
    for first in (0, 4, 8):
        draws.append(module.draw(batch, 7, first))
    for key in ("x_kept", "mix_share"):
        assert not any(torch.equal(a[key], b[key]) for a, b in combinations(draws, 2)), key
    assert module(batch | draws[0], 0)["loss"].item() == module(batch, 7)["loss"].item()  # no dropout here


def test_a_rate_of_one_drops_nothing():
    torch.manual_seed(0)
    model = WaveformBackbone(replace(AUDIO, patch_sampling_rate=1.0)).double()
    x = torch.rand(2, 8 * 30)  # fewer patches than buckets is no error then
    torch.testing.assert_close(model.train()(x)["features"], model.eval()(x)["features"])


def flops(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def test_work_falls_with_the_tokens():
    x = clip()
    counts = {}
    for rate in (0.25, 0.5, 1.0):
        model = VideoBackbone(replace(VIDEO, patch_sampling_rate=rate), backend="torch").train()
        counts[rate] = flops(model.tokens, x), flops(model, x)
    for rate in (0.25, 0.5):
        assert counts[rate][0] == counts[1.0][0] * rate  # the projection: exactly
        assert counts[rate][1] < counts[1.0][1] * (rate + 0.05)  # the whole: one aggregation token more


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5])
def test_a_rate_outside_is_refused(rate):
    with pytest.raises(ValueError, match=r"patch_sampling_rate: expected float above 0, at most 1, got"):
        VideoBackbone(replace(VIDEO, patch_sampling_rate=rate))


def test_keeping_nothing_is_refused():
    with pytest.raises(ValueError, match=r"waveform\.patch_sampling_rate: 0.01 of 40 buckets keeps no patch"):
        WaveformBackbone(replace(AUDIO, patch_sampling_rate=0.01))


def test_an_input_with_fewer_patches_is_refused_in_training():
    model = WaveformBackbone(AUDIO)
    short = torch.rand(1, 8 * 19)
    with pytest.raises(ValueError, match=r"waveform: DropToken keeps 20 patches .* but the input has 19"):
        model.train()(short)
    assert model.eval()(short)["features"].shape[1] == 19


class TestPatchesThatAreChosenAlready:
    """As a GPU cuts them out of decoded planes: (B, K, P) in place of clips."""

    @pytest.mark.parametrize("frames", [8, 12])
    @pytest.mark.parametrize("pre_projection", [False, True])
    def test_they_give_what_the_clips_give(self, frames, pre_projection):
        torch.manual_seed(0)
        model = VideoBackbone(replace(VIDEO, pre_projection=pre_projection)).train()
        x = torch.randint(0, 256, (2, frames, 16, 16, 3), dtype=torch.uint8)
        kept = model.tokens.draw(x.to("meta"))
        rows = gather_patches(x, model.tokens.patch, kept)
        model.tokens.patch_grid = (frames // 2, 4, 4)
        assert torch.equal(model(rows, kept=kept)["features"], model(x, kept=kept)["features"])
        everything = gather_patches(x, model.tokens.patch, None)
        assert torch.equal(model.eval()(everything)["features"], model(x)["features"])

    def test_which_they_are_must_be_told(self):
        model = VideoBackbone(VIDEO).train()
        with pytest.raises(ValueError, match=r"video: 32 of 64 patches \(B, K, P\): kept must say which"):
            model.eval()(torch.zeros(2, 32, 96, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"video: of patches \(B, K, P\) kept must be given"):
            model.train()(torch.zeros(2, 32, 96, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"video: expected patches \(B, K, 96\), got \(2, 32, 95\)"):
            model(torch.zeros(2, 32, 95, dtype=torch.uint8))
