"""The loop reads what came of a step while the next one is computed; nothing is lost by that."""

from __future__ import annotations

import math
import os
import signal
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from train.config.pretraining import PretrainConfig
from train.core import loop
from train.core.advice import Advisor
from train.core.console import Reporter
from train.core.loop import NotFinite, NothingToLearn, Trainer
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from vatt.config import to_dict
from vatt.data import SkipLog
from vatt.data.batches import Interrupted
from vatt.weights.tensors import Tensors


@dataclass
class Result:
    """A step whose reading is noted."""

    step: int
    log: list
    finite: bool
    beside: dict

    @property
    def applied(self):
        self.log.append(("read", self.step))
        return self.finite

    @property
    def losses(self):
        return {"loss": float(self.step), **self.beside}


@dataclass
class FakeEngine:
    spoilt: set
    log: list = field(default_factory=list)
    steps: int = 0
    beside: list = field(default_factory=lambda: [{}])  # what comes with the loss, step after step
    parts: int = 1

    def train_step(self, batch, lr, seed):
        assert len(list(batch)) == self.parts
        self.steps += 1
        self.log.append(("step", self.steps))
        beside = self.beside[min(self.steps, len(self.beside)) - 1]
        return Result(self.steps, self.log, self.steps not in self.spoilt, beside)

    weight: float = 0.0

    def model_tensors(self):
        self.log.append(("save", self.steps))
        self.streams = [Tensors.of({"weight": torch.tensor([self.weight]), "zeros": torch.zeros(3)})]
        return self.streams[0]

    def optimizer_tensors(self):
        self.streams.append(Tensors.of({"step": torch.tensor(self.steps)}))
        return self.streams[1]


class Loader:
    """Asked for a batch while the one before is held, it notes so."""

    waited = 0.0
    notes = ()
    clips = 5000

    def __init__(self):
        self.last, self.held = lambda: None, []

    def __iter__(self):
        return self

    def __next__(self):
        self.held.append(self.last() is not None)
        index = torch.zeros(2)
        self.last = weakref.ref(index)
        return {"index": index, "skipped": []}


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "agree", lambda flags, clips: flags)
    monkeypatch.setattr(loop, "gather", lambda item: [item])

    def make(spoilt=(), **run):
        config = PretrainConfig()
        for name, value in {"save_every": 0, "eval_every": 0, "steps": 6, "log_every": 3, **run}.items():
            setattr(config.run, name, value)
        config.optim.warmup_steps = 0
        folder = RunFolder.create(Path(mkdtemp(dir=tmp_path)), "run")
        engine = FakeEngine(set(spoilt))
        made = Trainer(
            config=config,
            context=RankContext(0, 1, torch.device("cpu")),
            folder=folder,
            engine=engine,
            loader=Loader(),
            skips=SkipLog(None, 1.0),
            reporter=Reporter(folder, False, config.run.steps),
            evaluate=lambda step: engine.log.append(("evaluate", step)),
            flops_per_sample=1.0,
            peak_flops=None,
        )
        records = []
        named = ("step", "loss", "skipped_steps")

        def note(record, keep=True):
            records.append((*(record[name] for name in named), *([] if keep else ["shown"])))

        made.reporter.train = note
        made.reporter.warn = records.append
        return made, records

    return make


def test_a_step_is_read_after_the_next_was_issued_or_where_it_is_recorded(trainer):
    made, records = trainer()
    assert made.run()
    order = [1, "read 1", 2, 3, "read 2", "read 3", 4, 5, "read 4", 6, "read 5", "read 6", "save 6"]
    assert [number if what == "step" else f"{what} {number}" for what, number in made.engine.log] == order
    assert records == [(1, 1.0, 0), (3, 2.5, 0), (6, 5.0, 0)]


def test_a_batch_is_dropped_before_the_next_one_is_asked_for(trainer):
    """Its memory is filled again as soon as it is not held."""
    made, told = trainer()
    made.loader.notes = ["memory is short"]
    made.run()
    assert made.loader.held == [False] * 6
    assert told[0] == "memory is short"


def test_the_ranks_agree_once_a_step_when_all_of_its_parts_are_there(trainer, monkeypatch):
    made, _ = trainer(steps=2)
    made.engine.parts = 3
    made.loader.__class__ = type("Skips", (Loader,), {"__next__": skipping})
    asked = []
    monkeypatch.setattr(loop, "agree", lambda flags, clips: asked.append((flags, clips)) or flags)
    made.run()
    assert asked == [([False, True], 6)] * 2
    assert len(made.skips.records) == 1


def skipping(self):
    return Loader.__next__(self) | {"skipped": [{"dataset": "a", "file": "b", "field": "c", "reason": "d"}]}


@pytest.mark.parametrize("parts", [1, 3])
def test_a_signal_while_a_batch_is_waited_for_ends_the_run_with_a_checkpoint(trainer, monkeypatch, parts):
    """A stalled server or disk must not keep a job alive that its scheduler wants to end."""
    made, _ = trainer()
    asked = []
    monkeypatch.setattr(loop, "agree", lambda flags, clips: asked.append((flags[0], clips)) or flags)
    monkeypatch.setattr(made.config.run, "batch_size", 2 * parts)
    made.engine.parts = parts
    given = []

    class Stalls(Loader):
        def __next__(self):
            if len(given) < 3 * parts - 1:  # all parts of two steps, and some of a third
                given.append(made.step)
                return super().__next__()
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.interrupted():
                pass
            raise Interrupted

    made.loader = Stalls()
    assert not made.run()
    assert made.engine.log[-1] == ("save", 2)
    # the other ranks may have their batch of 2 clips, or of 6
    assert asked == [(False, 2 * parts)] * 2 + [(True, 2 * parts)]
    assert made.engine.steps == 2


def test_a_signal_before_the_first_step_leaves_no_checkpoint(trainer):
    made, _ = trainer()

    class Stalls(Loader):
        def __next__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.interrupted():
                pass
            raise Interrupted

    made.loader = Stalls()
    assert not made.run()
    assert (made.engine.log, made.saved) == ([], None)


def test_what_is_saved_or_evaluated_was_read(trainer):
    made, _ = trainer(save_every=2, eval_every=4, log_every=5)
    saved = []
    made.save, save = lambda: (save(), saved.append(list(made.pending.get("loss", [])))), made.save
    made.run()
    assert saved[:2] == [[2.0], [2.0, 3.0, 4.0]]
    log = made.engine.log
    assert log.index(("read", 4)) < log.index(("evaluate", 4)) < log.index(("step", 5))


@pytest.mark.parametrize(("steps", "every", "saved"), [(6, 3, [3, 6]), (6, 4, [4, 6]), (6, 0, [6])])
def test_no_step_is_saved_twice(trainer, steps, every, saved):
    """Not the last one either, where save_every divides the steps."""
    made, _ = trainer(steps=steps, save_every=every)
    made.run()
    assert [step for what, step in made.engine.log if what == "save"] == saved


def test_a_run_that_goes_on_from_its_last_step_does_not_write_it_again(trainer):
    made, _ = trainer()
    made.step = made.saved = 6
    assert made.run()
    assert made.engine.log == []


def test_weights_that_are_not_finite_end_the_run_and_the_last_finite_checkpoint_stays(trainer):
    made, _ = trainer(save_every=2, keep=1)
    made.evaluate = lambda step: setattr(made.engine, "weight", math.inf)
    made.config.run.eval_every = 2
    with pytest.raises(NotFinite) as caught:
        made.run()
    assert str(caught.value) == (
        "step 4: weight holds values that are not finite (1 of 1); no checkpoint of it was written; step-00000002 is "
        "finite: go on from it with --resume and a lower optim.lr, a longer optim.warmup_steps or optim.clip_norm=1"
    )
    assert [path.name for path in made.folder.checkpoints.iterdir()] == ["step-00000002"]
    assert [list(stream) for stream in made.engine.streams] == [[], []]  # other ranks wait for its part in each


@pytest.mark.parametrize("first", [True, False])
def test_what_rank_0_cannot_write_is_raised_on_all_ranks_once_all_have_done_their_part(trainer, monkeypatch, first):
    made, _ = trainer()
    made.context.rank = 0 if first else 1
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(loop, "gather", lambda item: [item if first else full])
    streams = [Tensors.of({"a": torch.ones(1), "b": torch.ones(2)}), Tensors.of({"c": torch.ones(1)})]
    did = []

    def fail():
        did.append(next(iter(streams[0]))[0])
        raise full

    with pytest.raises(OSError, match="No space left"):
        made.write(streams, fail)
    assert did == (["a"] if first else [])
    assert [list(stream) for stream in streams] == [[], []]


def test_a_skipped_step_is_told_by_its_own_number(trainer):
    made, records = trainer(spoilt={2, 6})
    made.run()
    assert records[:1] == [(1, 1.0, 0)]
    assert records[1].startswith("step 2: the loss or a gradient is not finite")
    assert records[2:3] == [(3, 3.0, 1)]
    assert records[3].startswith("step 6: ")
    assert records[4] == (6, 4.5, 2)
    assert made.counts == {"skipped_steps": 2}


def test_too_many_in_a_row_end_the_run_one_step_later_without_a_checkpoint(trainer):
    made, _ = trainer(spoilt={2, 3}, max_skipped_steps=2, log_every=50)
    with pytest.raises(NotFinite, match=r"2 steps in a row .* the last one step 3 "):
        made.run()
    assert made.engine.steps == 4
    assert not any(what == "save" for what, _ in made.engine.log)


def test_the_last_step_counts(trainer):
    made, _ = trainer(spoilt={5, 6}, max_skipped_steps=2)
    with pytest.raises(NotFinite, match="step 6"):
        made.run()


def test_a_resumed_run_shows_its_first_step_and_records_what_a_whole_run_does(trainer):
    """From step 4 on, whose losses a checkpoint has."""
    whole, expected = trainer(log_every=6, steps=7)
    whole.run()
    made, records = trainer(log_every=6, steps=7)
    made.step = made.engine.steps = 4
    made.pending = {"loss": [2.0, 3.0, 4.0]}
    made.run()
    assert expected == [(1, 1.0, 0), (6, 4.0, 0), (7, 7.0, 0)]
    assert records == [(5, 5.0, 0, "shown"), *expected[1:]]


def test_what_comes_beside_the_losses_is_recorded_where_it_is_known(trainer):
    made, _ = trainer(log_every=3, steps=3)
    cosines = [{"a_chance": 2.0, "a_cosine": x} for x in (math.nan, math.nan, 0.5)]
    made.engine.beside = cosines
    records = []
    made.reporter.train = lambda record, keep: records.append(record)
    made.run()
    assert ["a_cosine" in record for record in records] == [False, True]  # of fewer than two clips there is none
    assert (records[1]["a_cosine"], records[1]["a_chance"], records[1]["loss"]) == (0.5, 2.0, 2.5)


@pytest.mark.parametrize(
    ("clips", "batch", "steps", "when"), [(10, 4, 100, 3), (5000, 64, 100, 16), (5000, 64, 3, 3), (2, 64, 9, 1)]
)
def test_a_run_in_which_no_clip_has_a_pair_ends_with_an_error(trainer, clips, batch, steps, when):
    """When a thousand clips, or all of them, were tried."""
    made, _ = trainer(steps=steps, batch_size=batch)
    made.loader.clips = clips
    made.engine.beside = [{"vidtxt_chance": 0.0, "vidaud_chance": 0.0}]
    with pytest.raises(NothingToLearn, match=rf"^no captions and no sound in {when * batch} clips: there is no pair"):
        made.run()
    assert made.engine.steps - when <= 1  # a step is read one late


def test_a_run_that_had_a_pair_goes_on_without(trainer):
    made, _ = trainer()
    made.loader.clips = 1
    made.engine.beside = [{"vidtxt_chance": 1.0, "vidaud_chance": 0.0}, {"vidtxt_chance": 0.0, "vidaud_chance": 0.0}]
    assert made.run()


def test_what_the_figures_say_is_told_at_the_start_and_after_the_record(trainer):
    made, records = trainer(steps=400, log_every=50)
    made.config.optim.warmup_steps = 210
    made.advisor = Advisor(to_dict(made.config))
    made.engine.beside = [{"vidtxt_loss": 1.0, "vidtxt_chance": 1.0, "vidtxt_text_cosine": 1.0}]
    made.run()
    assert records[0] == "the warm-up takes 200 steps, half of the run, not optim.warmup_steps=210"
    place = next(place for place, line in enumerate(records) if "embeddings of different clips" in str(line))
    assert records[place - 1][0] == 300
