"""--config auto: what it expects to fit and to take, and what it says of what cannot work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.train.machines import device_of, facts
from train.auto.rates import in_words
from train.config.pretraining import paper
from train.core.command import Job
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from train.pretraining import start
from train.pretraining.auto import choose
from train.pretraining.expected import evaluations, expected
from train.pretraining.memory import SHARE, in_parts, needed
from train.pretraining.start import (
    _find_parts,
    advice,
    beside_the_paper,
    expected_row,
    hopeless,
    prepare,
    refuse_repeats,
)
from vatt.analysis.plan.zero import state_bytes
from vatt.config import ConfigError
from vatt.precision import type_of


def test_the_fewest_parts_that_fit():
    known, config = facts(10**6, "one gpu"), choose(facts(10**6, "one gpu"), {})[0]
    config.run.batch_size = 4096
    found = in_parts(config, known, 0, False)
    states = state_bytes(config.model, 0, 1, type_of("auto", device_of(known)), parts=2)
    assert found.needed == needed(config, known, states, False, found.parts) <= SHARE * known.memory
    assert found.parts > 2
    assert found.part * found.parts == 4096
    assert needed(config, known, states, False, found.parts // 2) > SHARE * known.memory
    config.data.windows_per_open = found.part * 2
    assert in_parts(config, known, 0, False).part == 0  # a clip is not divided
    config.run.batch_size = 2
    config.data.windows_per_open = 1
    assert in_parts(config, known, 0, False).parts == 1


def test_expected_time():
    config, known = choose(facts(480), {"run.steps": 300})[0], facts(480)
    one = expected(config, known)
    config.run.steps *= 2
    two = expected(config, known)
    assert two.steps == pytest.approx(2 * one.steps)
    assert evaluations(config) == 4
    config.run.eval_every = 0
    assert evaluations(config) == 1
    assert expected(config, facts(480, "eight gpus")).basis.startswith("35% (assumed) of 989 TFLOP/s of its data sheet")
    assert "unheard of is not known" in expected(config, facts(480, "three gpus")).basis
    slow = facts(480, reading=1.0)
    assert expected(config, slow).steps >= config.run.steps * config.run.batch_size * 1.0 / config.data.workers
    assert expected_row(one).value == in_words(one.seconds)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "about 20 s"),
        (250, "about 4.2 min"),
        (3600 * 3, "about 3 hours"),
        (86_400 * 20, "about 20 days"),
        (86_400 * 183, "about half a year"),
        (86_400 * 100, "about 3 months"),
        (86_400 * 400, "about a year"),
        (86_400 * 365.25 * 2140, "about 2,100 years"),
    ],
)
def test_durations(seconds, words):
    assert in_words(seconds) == words


def test_what_cannot_work_is_told_with_what_to_try():
    known = facts(300, captioned=0, left_right=0.5, hues=0.5, broken=("a.mp4: container: bad",) * 8)
    config = paper()
    found = "\n".join(advice(config, known))
    for words in (
        "run.batch_size: 2,048 clips of a step, but there are about 285",
        "model.loss.vid_txt_weight=0",
        "try data.augment.flip=false",
        "try data.augment.hue=0",
        "8 of the 48 clips looked at cannot be read, such as a.mp4: container: bad; `vatt data check`",
    ):
        assert words in found
    assert "vid_aud_weight=0" in "\n".join(advice(config, facts(10**4, with_sound=0)))
    assert not list(advice(choose(facts(480), {})[0], facts(480)))
    config.data.augment.enabled = False
    config.engine.contrastive_parts = 8
    assert not list(advice(config, facts(10**4, left_right=0.5, hues=0.5)))


def test_a_batch_in_parts_is_recommended_and_another_loss_is_named():
    config, known = paper(), facts(10**4, "one gpu")
    config.data.augment.enabled = False
    (line,) = advice(config, known)
    parts = in_parts(config, known, 0, False).parts
    assert parts > 1
    assert line == (
        "run.batch_size: 2,048 clips at once may not fit into the 25.8 GB that are free; "
        f"engine.contrastive_parts=0 takes them in {parts} parts, with the same loss"
    )
    assert _find_parts(config, known).startswith(f"engine.contrastive_parts: {parts}, parts of {2048 // parts} clips: ")
    assert config.engine.contrastive_parts == parts
    config.run.batch_size, config.engine.contrastive_parts = 4, 0
    assert _find_parts(config, known).startswith("engine.contrastive_parts: 1, the batch of 4 clips at once: ")
    config.engine.gradient_accumulation = 2
    (line,) = advice(config, known)
    assert line.startswith("engine.gradient_accumulation=2 compares a clip with those of its part alone, another loss")
    config, known = paper(), facts(10**4)  # a CPU that cannot even hold the clips
    assert in_parts(config, replace(known, memory=8 << 30), 0, False).part == 0
    config.engine.contrastive_parts = 0
    assert "TOO LITTLE" in _find_parts(config, replace(known, memory=8 << 30))


def test_parts_are_found_for_a_run_that_goes_on_too(monkeypatch):
    """A run may go on with engine.contrastive_parts=0 on a machine of another size: 0 is no number of parts."""
    monkeypatch.setattr(start, "read_data", lambda config: {})
    monkeypatch.setattr(start, "gather_facts", lambda *given: facts(10**4, "one gpu"))
    config, said = paper(), []
    config.engine.contrastive_parts = 0
    found = prepare(Job(config, Path("run"), resume=True, sample=False), RankContext(0, 1, torch.device("cpu")))
    assert config.engine.contrastive_parts == in_parts(config, facts(10**4, "one gpu"), 0, False).parts > 1
    found.tell(Job(config, None, True, False), SimpleNamespace(say=said.append, folder=RunFolder(Path("absent"))))
    assert said == [found.parts]


def test_a_batch_of_more_clips_than_there_are_is_refused():
    config = paper()
    config.run.batch_size = 1000
    with pytest.raises(ConfigError, match=r"^run.batch_size: 1,000 clips .* about 25 to .*; try --batch-size 12$"):
        refuse_repeats(config, facts(26))
    refuse_repeats(config, facts(26, seconds=600.0))  # of which there are more windows
    config.run.batch_size = 25
    refuse_repeats(config, facts(26))


def test_a_hopeless_run_on_a_cpu_is_named():
    config, known = paper(), facts(480)
    (line,) = hopeless(config, known)
    assert line.startswith("500,000 steps of 2,048 clips of vatt-base are about ")
    assert "years on this CPU" in line
    gpu = facts(480, "three gpus")
    assert not list(hopeless(config, gpu))
    small, _ = choose(known, {})
    assert not list(hopeless(small, known))
    busy = replace(known, product=1e6)
    assert not list(hopeless(small, busy))  # whatever else the machine is busy with
    (line,) = hopeless(config, busy)
    assert "60% of the 0 GFLOP/s that this CPU reached just now" in line  # one speed in all lines
    assert "GFLOP/s" not in beside_the_paper(small, busy)
    assert expected(small, busy).seconds > expected(small, known).seconds
    assert beside_the_paper(small, known).startswith(
        "--config paper is 500,000 steps of 2,048 clips of vatt-base: about"
    )
