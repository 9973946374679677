"""--config auto: what it chooses over a wide range of data and machines, and that what was set by hand stays."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.train.machines import COUNTS, MACHINES, device_of, facts, rows
from train.auto.choices import BY_HAND, flat, table
from train.config.pretraining import PretrainConfig, paper
from train.core.command import Job
from train.core.ranks import RankContext
from train.pretraining import start
from train.pretraining.auto import LEAST_STEPS, choose, refuse_without_pairs, training_clips, training_windows
from train.pretraining.expected import expected
from train.pretraining.memory import SHARE, in_parts, needed
from train.pretraining.start import (
    advice,
    prepare,
)
from vatt.analysis.plan.zero import state_bytes
from vatt.config import ConfigError, from_dict, to_dict
from vatt.data import ManifestError
from vatt.precision import type_of


def test_a_convolutional_model_drops_nothing_and_has_its_batch_at_once():
    known = facts(100_000_000, "one gpu")
    config, choices = choose(known, {"model": "mmv-i3d"})
    assert "DropToken" not in rows(choices)
    assert (config.engine.contrastive_parts, config.engine.activation_checkpointing) == (1, False)
    assert in_parts(config, known, 0, False).part == config.run.batch_size < 2048
    assert "at once (predicted)" in rows(choices)["run.batch_size"].reason
    for setting, value in (("activation_checkpointing", True), ("contrastive_parts", 2)):
        with pytest.raises(ConfigError, match=f"engine.{setting}: cannot be used with convolutional networks"):
            choose(known, {"model": "mmv-tiny", f"engine.{setting}": value})


@pytest.mark.parametrize(("machine", "seconds"), [*((name, 2.0) for name in MACHINES), ("one gpu", 600.0)])
def test_every_choice_is_valid_and_grows_with_the_data(machine, seconds):
    seen = []
    for count in COUNTS:
        known = facts(count, machine, seconds)
        config, choices = choose(known, {})
        assert from_dict(PretrainConfig, to_dict(config)) == config  # every section accepts it
        batch, ranks = config.run.batch_size, known.ranks
        assert batch % ranks == 0
        local = batch // ranks
        assert local >= 2
        parts = config.engine.contrastive_parts
        assert local % parts == 0
        states = state_bytes(config.model, config.engine.zero, ranks, type_of("auto", device_of(known)), parts=parts)
        bytes_needed = needed(config, known, states, config.engine.activation_checkpointing, parts)
        if local // parts > 1 or known.memory > 8 << 30:
            assert bytes_needed <= SHARE * known.memory
        assert batch <= training_clips(config, known) or batch == 2 * ranks
        assert LEAST_STEPS <= config.run.steps <= 500_000
        assert config.optim.warmup_steps <= config.run.steps // 2
        assert config.optim.final_lr < config.optim.lr
        assert 1 <= config.data.workers <= 16
        assert config.data.eval_share == 0 or count * config.data.eval_share >= 10
        assert config.model.input.audio_level == "rms"
        assert max(map(len, table(choices).splitlines())) <= 100
        assert all(choice.reason for choice in choices)
        estimate = expected(config, known)
        assert estimate.seconds >= estimate.steps > 0
        seen.append((config, training_windows(config, known)))
    for (before, fewer), (after, more) in itertools.pairwise(seen):
        assert fewer <= more
        assert before.run.batch_size <= after.run.batch_size
        assert before.data.augment.area_min >= after.data.augment.area_min
        assert before.model.name == after.model.name or before.model.text.num_layers <= after.model.text.num_layers
        if before.model.name == after.model.name:
            assert 0.9 * before.run.steps * before.run.batch_size <= after.run.steps * after.run.batch_size
        if before.run.steps <= after.run.steps and before.model.name == after.model.name:
            assert before.optim.lr >= after.optim.lr


def test_the_samples_folder_gets_the_samples_recipe():
    config, _ = choose(facts(864, seconds=4.0), {})
    assert (config.model.name, config.run.batch_size, config.optim.lr) == ("vatt-tiny", 32, 3e-3)
    assert config.run.steps * 32 == pytest.approx(30 * 764, rel=0.01)
    assert config.data.eval_share * 864 == pytest.approx(100, rel=0.01)
    assert config.evaluation.windows == 1
    assert config.model.text.trainable_embeddings


def test_howto100m_on_a_cluster_gets_the_papers():
    config, _ = choose(facts(136_000_000, "cluster", seconds=4.0), {})
    assert config.run.batch_size == 2048
    assert config.run.steps == pytest.approx(500_000, rel=0.05)
    assert config.optim.warmup_steps == paper().optim.warmup_steps
    assert config.data.augment.area_min == paper().data.augment.area_min
    assert config.data.augment.flip


def test_what_is_set_by_hand_stays_and_the_rest_follows():
    given = {"model": "vatt-base", "run.steps": 50, "data.workers": 7, "data.augment.area_min": 0.5}
    config, choices = choose(
        facts(480), {**given, "data.sources": ["x"], "data.augment.hue": 0.2, "run.batch_size": 16}
    )
    assert config.model.name == "vatt-base"
    assert {name: value for name, value in flat(to_dict(config)).items() if name in given} == {
        name: value for name, value in given.items() if name != "model"
    }
    assert config.run.batch_size == 16
    assert config.data.augment.hue == 0.2
    assert config.optim.lr == 2e-4  # of vatt-base
    assert config.optim.warmup_steps == 10
    assert config.run.eval_every == 0
    found = rows(choices)
    for name in ("model", "run.steps", "run.batch_size", "data.workers", "data.augment.hue"):
        assert found[name].reason == BY_HAND
    assert "set by you: area_min" in found["data.augment"].reason
    assert found["optim.lr"].reason != BY_HAND


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"data.windows_per_open": 3}, 3),
        ({"engine.gradient_accumulation": 3}, 6),
        ({"data.windows_per_open": 4, "engine.gradient_accumulation": 5}, 20),
        ({"engine.contrastive_parts": 3}, 6),
    ],
)
def test_the_batch_divides_as_was_asked(given, value):
    for machine in ("laptop", "three gpus"):
        known = facts(480, machine)
        config, _ = choose(known, given)
        assert config.run.batch_size // known.ranks % value == 0


@pytest.mark.parametrize(
    "given", [{"engine.offload_optimizer": True, "engine.zero": 1}, {"engine.cuda_graphs": True}], ids=str
)
def test_what_refuses_parts_gets_none(given):
    """The run would end with an error about a setting that nobody has made."""
    wanted = {"model": "vatt-large", "run.batch_size": 2048}
    known = facts(10**6, "one gpu")
    assert choose(known, wanted)[0].engine.contrastive_parts > 1
    assert choose(known, wanted | given)[0].engine.contrastive_parts == 1


def test_an_optimizer_that_clips_in_another_way_is_left_alone():
    config, _ = choose(facts(480), {"model": "vatt-base", "optim.clip_backbone": 1.0})
    assert (config.optim.clip_backbone, config.optim.clip_norm) == (1.0, 0.0)


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match="unknown model 'vatt-huge'"):
        choose(facts(480), {"model": "vatt-huge"})


def test_a_model_that_cannot_be_built_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^model: audio_input: the unified backbone reads waveforms"):
        choose(facts(480), {"model": "vatt-ma-tiny", "model.audio_input": "spectrogram"})


@pytest.mark.parametrize(
    ("steps", "value", "reason"),
    [
        (20, 10, "half of a run"),
        (40, 10, "the least"),
        (900, 104, "a ninth"),
        (500_000, 5000, "the paper's"),
    ],
)
def test_the_warm_up_tells_what_it_rests_on(steps, value, reason):
    config, choices = choose(facts(480), {"run.steps": steps})
    assert config.optim.warmup_steps == value
    assert rows(choices)["optim.warmup_steps"].reason.startswith(reason)


def test_a_warm_up_by_hand_is_shown_as_it_will_be():
    _, choices = choose(facts(768), {"optim.warmup_steps": 700, "run.steps": 1000})
    row = rows(choices)["optim.warmup_steps"]
    assert (row.value, row.reason) == ("500", f"half of the run, which is the most; {BY_HAND}: 700")


def test_few_clips_are_warned_of():
    config, _ = choose(facts(3), {})
    lines = list(advice(config, facts(3)))
    assert any(line.startswith("3 clips to train on: the steps of 2 compare the same few again") for line in lines)


def test_data_without_a_clip_to_train_on_are_refused_before_they_are_looked_at(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("video,split\n" + "".join(f"{n}.mp4,val\n" for n in range(3)))
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
    monkeypatch.setattr(start, "gather_facts", None)
    config = PretrainConfig()
    config.data.sources = [str(tmp_path / "a.csv")]
    with pytest.raises(ManifestError, match="no clip to train on; column split holds train 0, val 3"):
        prepare(Job(config, None, resume=False, sample=False, auto=True), RankContext(0, 1, torch.device("cpu")))


def test_the_batch_of_three_clips_is_not_called_half_of_them():
    config, choices = choose(facts(3), {})
    assert config.run.batch_size == 2
    assert rows(choices)["run.batch_size"].reason == "the least of which clips can be told apart"


def test_data_without_captions_are_not_judged_by_them():
    found = rows(choose(facts(480, captioned=0), {})[1])
    assert "word vectors" not in found
    assert found["data.augment.flip"].reason.startswith("no captions")
    assert found["data.augment.hue"].reason.startswith("no captions")


def test_a_unified_model_trains_its_words_and_a_table_stays_frozen():
    config, _ = choose(facts(480), {"model": "vatt-ma-base"})
    assert config.model.unified.txt_embedding_trainable
    config, choices = choose(facts(480), {"data.word_embeddings": "w.npy"})
    assert not config.model.text.trainable_embeddings
    assert rows(choices)["word vectors"].value == "frozen"


def test_pairs_that_the_data_do_not_have_are_left_out():
    config, choices = choose(facts(480, captioned=0), {})
    assert (config.model.loss.vid_txt_weight, config.model.loss.vid_aud_weight) == (0, 1)
    assert "no clip has captions" in rows(choices)["model.loss.vid_txt_weight"].reason
    config, choices = choose(facts(480, with_sound=0), {})
    assert (config.model.loss.vid_txt_weight, config.model.loss.vid_aud_weight) == (1, 0)
    config, choices = choose(facts(480, silent=48), {})
    assert "silence in all" in rows(choices)["model.loss.vid_aud_weight"].reason
    assert choose(facts(480, with_sound=1), {})[0].model.loss.vid_aud_weight == 1


@pytest.mark.parametrize("found", [{"with_sound": 0}, {"silent": 48}])
def test_no_pair_at_all_is_refused(found):
    with pytest.raises(ConfigError, match=r"^my_videos: no clip has captions, and none of the 48 .* has sound"):
        choose(facts(480, captioned=0, **found), {})
    refuse_without_pairs(facts(480, **found))


def test_captions_that_augmentation_would_belie():
    config, choices = choose(facts(480, left_right=0.02, hues=0.5), {})
    assert not config.data.augment.flip
    assert config.data.augment.hue == 0
    assert "2.0% of the captions tell left from right" in rows(choices)["data.augment.flip"].reason
    config, _ = choose(facts(10**6, left_right=0.001, hues=0.03), {})
    assert config.data.augment.flip
    assert config.data.augment.hue == 0.05
    assert choose(facts(10**7), {})[0].data.augment.hue == 0.2


def test_splits_that_the_data_name_are_kept():
    config, choices = choose(facts(500, named=(400, 100)), {})
    assert training_clips(config, facts(500, named=(400, 100))) == 400
    assert rows(choices)["held out"].value == "100 clips"
    assert config.data.eval_share == PretrainConfig().data.eval_share


def test_too_few_files_are_not_held_out():
    config, choices = choose(facts(40), {})
    assert (config.data.eval_share, config.run.eval_every) == (0, 0)
    assert "too few" in rows(choices)["data.eval_share"].reason
    assert rows(choices)["data.eval_share"].value == "0"


@pytest.mark.parametrize(("clips", "reason"), [(0, "nothing is held out"), (9, "9 clips are held out, and an")])
def test_a_split_that_is_too_small_is_not_evaluated_on(clips, reason):
    config, choices = choose(facts(5000, named=(4000, clips)), {})
    assert config.run.eval_every == 0 < config.run.save_every
    assert rows(choices)["run.eval_every"].reason.startswith(reason)
    assert choose(facts(5000, named=(4000, 10)), {})[0].run.eval_every > 0


def test_clips_without_sound_are_made_up_for():
    assert choose(facts(864, seconds=4.0, with_sound=24), {})[0].run.batch_size == 64
    assert choose(facts(864, seconds=4.0, captioned=432), {})[0].run.batch_size == 64
    assert choose(facts(864, seconds=4.0, captioned=0), {})[0].run.batch_size == 32  # the pair that is left has all


def test_large_pictures_get_more_readers():
    assert choose(facts(480, height=720, width=1280), {})[0].data.workers == 2
    assert choose(facts(480), {})[0].data.workers == 1
