"""The speed of a run and the time to go: what counts as training, and what an evaluation and a checkpoint add."""

from __future__ import annotations

import time

import pytest

from train.config.sections import RunConfig
from train.core.pace import Eta, Pace, Waits


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, to be set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def pace_of(step=0, samples=8, evaluated=0, **run):
    return Pace(
        RunConfig(**{"steps": 20, "batch_size": 8, "eval_every": 0, "save_every": 0, **run}), step, samples, evaluated
    )


def test_figures_are_of_the_time_since_the_last_record(clock):
    pace = pace_of(9)
    clock[0] = 5.0
    pace.measure(10, Waits(3.0, 1.0, 0.5))
    clock[0] = 15.0
    assert pace.measure(12, Waits(7.0, 2.0, 1.0)) == pytest.approx(
        {
            **{"samples_per_s": 1.6, "step_s": 5.0, "data_wait": 0.4, "device_wait": 0.1, "ranks_wait": 0.05},
            **{"eta": 40.0, "eta_measured": True},
        }
    )


def test_the_first_step_of_a_process_forecasts_nothing(clock):
    """It has the start of everything, also after a resume."""
    for began in (0, 9):
        pace, clock[0] = pace_of(began), clock[0] + 300
        found = pace.measure(began + 1, Waits(100.0))
        assert (found["step_s"], found["eta"]) == (300, None)
        assert found["data_wait"] == pytest.approx(1 / 3)
        clock[0] += 4
        assert pace.measure(began + 3, Waits(100.0))["eta"] == 2 * (20 - began - 3)


def test_a_slow_run_is_known_before_its_second_record(clock):
    pace = pace_of(steps=1000)
    clock[0] = 100
    pace.measure(1, Waits())
    clock[0] = 140
    assert pace.eta(2) is None  # a step alone may be one that compiles
    clock[0] = 150
    assert pace.eta(3) is None  # short runs have their second record soon
    clock[0] = 190
    assert pace.eta(4) == Eta(996 * 30)


def test_evaluations_and_checkpoints_count(clock):
    """Evaluations after 6, 12, 18 and 20 steps; checkpoints after 8, 16 and 20. Before the first evaluation its time is
    that of as many samples as a step has."""
    pace = pace_of(samples=4, evaluated=12, eval_every=6, save_every=8)
    pace.measure(1, Waits())
    clock[0] = 10.0
    assert pace.measure(6, Waits())["eta"] == 14 * 2 + 4 * (12 * 2 / 4)
    assert pace.eta(6) == Eta(52, measured=False)
    clock[0] = 110.0
    pace.took("evaluation", 100.0, 6, Waits())
    assert pace.eta(7) == Eta(13 * 2 + 3 * 100)
    clock[0] = 114.0
    pace.took("saving", 1.0, 8, Waits())  # was due with step 8, which is as fast as those before
    assert pace.eta(9) == Eta(11 * 2 + 3 * 100 + 2 * 1)
    clock[0] = 124.0
    found = pace.measure(10, Waits())
    assert found["samples_per_s"] == 1.6  # 2 steps of 8 samples in 10 s: neither the evaluation nor the checkpoint
    assert found["eta"] == 10 * 5 + 3 * 100 + 2
    assert pace.eta(20) == Eta(100 + 2 * 1 - 1, measured=True)


def test_time_in_words():
    assert str(Eta(192.4)) == "0:03:12"
    assert str(Eta(192.4, measured=False)) == "about 0:03:12"
    assert str(Eta(171 * 86400.0)) == "171 days"
    assert str(Eta(4e8)) == "4,630 days"
