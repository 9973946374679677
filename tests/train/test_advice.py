"""What the figures of a run say: which pair stays at its chance, what has collapsed or is not there, and when."""

from __future__ import annotations

import pytest

from train.core.advice import Advisor, findings, summary, warmup_of
from train.core.pace import Eta

CHANCE = 4.159


def config(**changes):
    found = {
        "model": {"loss": {"vid_txt_weight": 1.0, "vid_aud_weight": 1.0, "aud_txt_weight": 0.0}, "input": {}},
        "optim": {"lr": 3e-3, "warmup_steps": 30},
        "run": {"steps": 260, "batch_size": 32},
        "data": {"windows_per_open": 1},
        "engine": {},
    }
    for dotted, value in changes.items():
        section, name = dotted.split("__")
        found[section][name] = value
    return found


def record(step, text=4.16, audio=4.16, chance=CHANCE, **changes):
    sides = ("vidtxt_video", "vidtxt_text", "vidaud_video", "vidaud_audio")
    found = {"step": step, "loss": 4.0, "vidtxt_loss": text, "vidaud_loss": audio}
    return found | {"vidtxt_chance": chance, "vidaud_chance": chance} | {f"{x}_cosine": 0.1 for x in sides} | changes


def told(records, **changes):
    """What an advisor says after which step."""
    advisor = Advisor(config(**changes))
    return {r["step"]: lines for r in records if (lines := advisor.watch(r))}


def every(steps, last, **figures):
    return [record(step, **figures) for step in (1, *range(steps, last + 1, steps))]


def test_a_pair_at_its_chance_is_named_once_the_run_is_half_over():
    (line,) = told(every(20, 260, text=3.0))[140]
    assert told(every(20, 260, text=3.0)).keys() == {140}  # and not again
    assert line.startswith(
        "vid-aud 4.160 (chance 4.159) is not below its chance in steps 100 to 140; try more run.steps, "
    )
    assert "contrastive_parts" not in line
    (line,) = told(every(20, 260, text=3.0), engine__contrastive_parts=1, **{"model__input": {"audio_level": "as_is"}})[
        140
    ]
    assert "try model.input.audio_level=rms, more run.steps" in line
    assert "engine.contrastive_parts fits it" in line
    (line,) = told(every(20, 260, audio=3.0, text=4.2), **{"model__input": {"audio_level": "as_is"}})[140]
    assert line.startswith("vid-txt 4.200")
    assert "audio_level" not in line


@pytest.mark.parametrize(
    ("warmup", "steps", "when"),
    [(30, 100_000, 1030), (5000, 500_000, 10_000), (0, 100, None), (30, 120, None), (0, 210, 110)],
)
def test_when_a_pair_is_judged(warmup, steps, when):
    """1000 steps after the warm-up, or as many as that had; in the middle of a short run; never in a very short one,
    before it is over."""
    records = every(10, min(steps, (when or 0) + 200), text=3.0) if when != 10_000 else every(500, 12_000, text=3.0)
    found = told(records, optim__warmup_steps=warmup, run__steps=steps)
    assert list(found) == ([when] if when else [])
    if when is None:
        assert "vid-aud" in summary(records, config(optim__warmup_steps=warmup, run__steps=steps))[1]


def test_a_loss_counts_as_learned_from_one_percent_below_chance():
    assert told(every(20, 260, text=4.13)).keys() == {140}
    assert not told(every(20, 260, text=4.10, audio=4.10))


def test_a_pair_that_falls_back_is_told_again():
    """A whole stretch later: not each time that a loss goes up and down."""
    losses = [4.16] * 8 + [2.0] * 4 + [4.16] * 30
    records = [record(200 * place, text=2.0, audio=loss) for place, loss in enumerate(losses, 1)]
    assert list(told(records, run__steps=100_000)) == [1200, 4800]


def test_a_run_that_learns_nothing_is_told_in_one_line():
    (line,) = told(every(20, 260))[140]
    figures = "vid-txt 4.160 (chance 4.159), vid-aud 4.160 (chance 4.159)"
    assert line.startswith(
        f"no pair is below its chance in steps 100 to 140: {figures}; try a higher or lower optim.lr"
    )
    assert "(now 0.003)" in line


def test_embeddings_that_collapsed_are_told_in_place_of_the_loss():
    records = every(20, 260, text=3.0, vidaud_audio_cosine=0.998)
    found = told(records, **{"model__input": {"audio_level": "as_is"}})
    assert list(found) == [100]  # after twice the warm-up, and a third of the run
    assert found[100] == [
        "vid-aud: embeddings of different clips are the same: audio (mean cosine 0.998); try "
        "model.input.audio_level=rms, a lower optim.lr (now 0.003) or a longer optim.warmup_steps"
    ]
    records[4] = record(80, text=3.0, vidaud_audio_cosine=0.5)
    assert list(told(records)) == [120]
    assert list(told(every(50, 2000, text=3.0, vidaud_audio_cosine=0.998), run__steps=500_000)) == [1050]


def test_sounds_that_part_late_have_not_collapsed():
    """As those of pictures with sounds (bench/LOG.md, "Stamps"): alike, and at chance, up to step 150 of 652."""
    cosines = {50: 0.997, 100: 0.995, 150: 0.992, 200: 0.9, 250: 0.7}
    records = [record(n, 3.0, audio=4.16 if n < 200 else 3.9, vidaud_audio_cosine=x) for n, x in cosines.items()]
    assert not told(records, run__steps=652, optim__warmup_steps=75)
    stays = [record(n, 3.0, vidaud_audio_cosine=0.997) for n in range(50, 300, 50)]
    assert list(told(stays, run__steps=652, optim__warmup_steps=75)) == [250]


def test_embeddings_that_begin_to_part_have_not_collapsed():
    """Seed 1 of the sample's recipe with vatt-ma-tiny, which ends at 2.15."""
    figures = {40: (4.387, 0.987), 60: (4.233, 0.996), 80: (4.073, 0.990001), 100: (3.399, 0.812)}
    assert not told([record(n, text, audio=3.0, vidtxt_text_cosine=cosine) for n, (text, cosine) in figures.items()])


def test_a_modality_that_is_not_there():
    silent = {"audio": 0.0, "vidaud_chance": 0.0}
    found = told(every(2, 40, text=3.0, **silent))
    assert list(found) == [8]  # 256 clips
    assert found[8][0].startswith("vid-aud: no sound in 256 clips, so it learns nothing; vatt data check --sound lists")
    assert "model.loss.vid_aud_weight=0 leaves the pair out" in found[8][0]
    assert not told([record(1, text=3.0, **silent), *every(20, 120, text=3.0, audio=3.0)[1:]])
    assert "vid-aud: no sound in 96 clips" in summary(every(1, 3, **silent), config(run__steps=3))[0]
    short = every(1, 2, text=0.0, vidtxt_chance=0.0)
    assert "vid-txt: no captions in 64 clips" in findings(short, config(run__steps=2), ended=True)["vidtxt_loss"]
    advisor = Advisor(config())
    assert advisor.nothing_to_learn(10).startswith(
        "no captions and no sound in 10 clips: there is no pair to learn from"
    )
    only = config(model__loss={"vid_txt_weight": 0.0, "vid_aud_weight": 1.0})
    assert Advisor(only).nothing_to_learn(10).startswith("no sound in 10 clips")


def test_what_the_settings_say_at_the_start():
    assert warmup_of(5000, 260) == 130
    assert Advisor(config()).at_start() == []
    (line,) = Advisor(config(optim__warmup_steps=5000)).at_start()
    assert line == "the warm-up takes 130 steps, half of the run, not optim.warmup_steps=5000"


def test_a_length_that_nobody_waits_for_is_told_once():
    advisor = Advisor(config())
    assert advisor.length(Eta(29 * 86400.0)) == ""
    assert advisor.length(Eta(171 * 86400.0)).startswith("at this pace the run takes 171 days; try fewer run.steps")
    assert advisor.length(Eta(172 * 86400.0)) == ""


def test_the_summary_says_what_was_learned_and_what_not():
    found = summary(every(20, 260, text=3.0), config())
    assert found[0] == "learned: vid-txt 3.00 (chance 4.16)"
    assert found[1].startswith("vid-aud 4.160 (chance 4.159) is not below its chance in steps 160 to 260")
    assert summary(every(20, 260, text=3.0, audio=2.5), config()) == [
        "learned: vid-txt 3.00 (chance 4.16), vid-aud 2.50 (chance 4.16)"
    ]
    assert [line[:7] for line in summary(every(20, 260), config())] == ["no pair"]
    assert summary(every(1, 3), config(run__steps=3)) == []  # too short to say
    old = [{"step": step, "loss": 4.1, "vidtxt_loss": 4.1, "vidaud_loss": 4.1} for step in range(20, 280, 20)]
    assert summary(old, {}) == []
    assert summary([], config()) == []
