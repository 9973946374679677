"""Trackers: which ones a run has, what they get, and that none of them holds up or ends a run."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from tests.limits import HANG
from train.config import sections
from train.config.sections import RunConfig
from train.core import finish, tracking
from train.core.console import Reporter
from train.core.run_folder import RunFolder
from train.core.tracking import TRACKERS, Trackers, choose_trackers
from vatt.config import ConfigError


class Notes:
    """A tracker that notes what it gets, and fails where it is told to."""

    def __init__(self, run, fails=""):
        self.run, self.fails, self.got = run, fails, []
        self.fail("start")

    def fail(self, where):
        if self.fails == where:
            raise SystemExit(f"no {where}\nand more")

    def write(self, step, values):
        self.fail("write")
        self.got.append((step, dict(values)))

    def close(self, failed):
        self.fail("close")
        self.got.append(failed)


@pytest.fixture
def made(monkeypatch):
    """Trackers by name: "notes", and one that fails at each place."""
    found = {}

    def maker(name, fails):
        def make(run):
            found[name] = Notes(run, fails)
            return found[name]

        return make

    for name, fails in {"notes": "", "start": "start", "write": "write", "close": "close"}.items():
        monkeypatch.setitem(TRACKERS, name, maker(name, fails))
    return found


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "holiday", "run")


def test_the_setting_names_trackers_that_there_are():
    assert tuple(TRACKERS) == sections.TRACKERS
    assert RunConfig(track="wandb, tensorboard").track == "wandb, tensorboard"
    with pytest.raises(ValueError, match=r"^track: 'wandbb' is no tracker; did you mean 'wandb'\?$"):
        RunConfig(track="tensorboard,wandbb")


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "trackio" else name)
    assert choose_trackers("auto") == ["tensorboard"]
    assert choose_trackers("none") == []
    assert choose_trackers("wandb,tensorboard,wandb") == ["wandb", "tensorboard"]
    with pytest.raises(ConfigError, match=r"^run\.track: trackio is not installed: pip install -e .*\[trackio\]'?$"):
        choose_trackers("wandb, trackio")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert choose_trackers("auto") == []


def test_figures_arrive_in_their_order_from_the_records_of_a_run(made, folder):
    reporter = Reporter(folder, True, 9)
    reporter.trackers = Trackers(["notes"], folder, {"run": 1}, 2, reporter.say)
    assert not folder.tracking.exists(), "a run that never began leaves nothing"
    reporter._write({"kind": "train", "step": 3, "loss": 1.5, "mfu": None, "time": 7.0})
    reporter.evaluation(4, {"text_to_video": {"r1": 0.25, "n": True}})
    reporter.close()
    reporter.close(failed=True)  # comes too late
    assert made["notes"].got == [(3, {"train/loss": 1.5}), (4, {"eval/text_to_video/r1": 0.25}), False]
    assert (made["notes"].run.config, made["notes"].run.step, made["notes"].run.name) == ({"run": 1}, 2, "holiday")
    assert len(folder.metrics.read_text().splitlines()) == 2


@pytest.mark.parametrize("place", ["start", "write", "close"])
def test_a_tracker_that_fails_is_one_warning_and_the_others_get_all(place, made, folder):
    said = []
    trackers = Trackers([place, "notes"], folder, {}, 0, said.append)
    for step in range(3):
        trackers.write(step, {"a": step})
    trackers.close(failed=True)
    assert said == [f"warning: run.track: {place} failed: SystemExit: no {place}; the run goes on without it"]
    assert made["notes"].got == [*((step, {"a": step}) for step in range(3)), True]


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [(Mute(), "Mute"), (OSError(28, "full \x1b[2J\udcff"), r"OSError: [Errno 28] full \x1b[2J\udcff")],
)
def test_an_error_that_cannot_be_printed_is_told_all_the_same(error, told, folder, monkeypatch):
    said = []

    def say(text):
        text.encode("ascii")
        said.append(text)

    def start(run):
        raise error

    monkeypatch.setitem(TRACKERS, "mute", start)
    for speak, heard in ((say, 1), (lambda text: "ü".encode("ascii"), 1)):  # a terminal that knows no such letter
        trackers = Trackers(["mute"], folder, {}, 0, speak)
        trackers.write(1, {"a": 1.0})
        trackers.close(failed=False)
        assert said == [f"warning: run.track: mute failed: {told}; the run goes on without it"] * heard


def test_a_machine_without_a_thread_left_costs_the_tracker_not_the_run(made, folder, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    said = []
    monkeypatch.setattr(threading.Thread, "start", start)
    trackers = Trackers(["notes"], folder, {}, 0, said.append)
    trackers.write(1, {"a": 1.0})
    trackers.close(failed=False)
    assert said == ["warning: run.track: notes did not start: can't start new thread; the run goes on without it"]


def test_steps_that_are_done_again_are_written_once_unless_a_tracker_forgets(made, folder, monkeypatch):
    got = []
    for forgets in (False, True):
        folder.tracking.unlink(missing_ok=True)
        monkeypatch.setattr(Notes, "forgets", forgets, raising=False)
        for steps in ((1, 2), (2, 3)):
            trackers = Trackers(["notes"], folder, {}, steps[0] - 1, print)
            for step in steps:
                trackers.write(step, {"train/loss": float("nan")})
                trackers.write(step, {"eval/r1": 0.5})
            trackers.close(failed=False)
            got.append([(item[0], *item[1]) for item in made["notes"].got[:-1]])
    both = [[(step, name) for step in steps for name in ("train/loss", "eval/r1")] for steps in ((1, 2), (3,), (2, 3))]
    assert got == [both[0], both[1], both[0], both[2]]
    folder.tracking.write_text('{"notes": "abc", "steps": {"notes": 5, "other": {"train": "x"}}}')  # by another hand
    assert tracking._Records(folder, ["notes"]).are_new("notes", 1, {"train/a": 1.0})
    assert tracking._Records(folder, ["notes"]).ids == {"notes": "abc"}


def test_a_tracker_that_hangs_holds_nothing_up(made, folder, monkeypatch):
    free, said = threading.Event(), []
    monkeypatch.setitem(TRACKERS, "hangs", lambda run: free.wait(HANG))
    monkeypatch.setattr(tracking, "_PATIENCE", 0.05)
    monkeypatch.setattr(tracking, "_MOST", 2)
    trackers = Trackers(["hangs"], folder, {}, 0, said.append)
    before = time.monotonic()
    for step in range(5):
        trackers.write(step, {})
    assert said == ["warning: run.track: hangs takes no figures any more (2 of them wait); the run goes on without it"]
    trackers.close(failed=False)
    other = Trackers(["hangs"], folder, {}, 0, said.append)
    other.write(0, {})
    other.close(failed=False)
    assert time.monotonic() - before < HANG / 2
    assert said[1:] == ["warning: run.track: hangs did not end in 0 s; what it had written by then is there"]
    free.set()


def test_a_resumed_run_is_the_same_tracked_run(made, folder, tmp_path):
    ids = []
    for place in (folder, folder, RunFolder.create(tmp_path / "other", "run")):
        trackers = Trackers(["notes"], place, {}, 0, print)
        trackers.write(1, {})
        trackers.close(failed=False)
        ids.append(made["notes"].run.id)
    assert ids[0] == ids[1] != ids[2]
    folder.tracking.write_text("damaged")
    assert tracking._Records(folder, ["notes"]).ids["notes"] not in ids
    folder.remove_records()
    assert not folder.tracking.exists(), "what is started again is another run"


def test_a_run_that_ends_by_an_error_says_so_to_its_trackers(made, folder):
    reporter = Reporter(folder, True, 9)
    reporter.trackers = Trackers(["notes"], folder, {}, 0, reporter.say)
    reporter.evaluation(1, {"r1": 0.5})

    def run():
        raise MemoryError

    trainer = SimpleNamespace(run=run, loader=SimpleNamespace(close=lambda: None), reporter=reporter)
    with pytest.raises(MemoryError):
        finish.train_to_end(trainer, print, "model.")
    assert made["notes"].got[-1] is True


def start_twice(name, folder):
    """Two starts of a run; the second one does step 2 again."""
    said = []
    for done, steps in ((0, (1, 2)), (1, (2, 3))):
        trackers = Trackers([name], folder, {"run": {"steps": 3}}, done, said.append)
        for step in steps:
            trackers.write(step, {"train/loss": 10.0 * done + step})
        trackers.close(failed=False)
    assert [line for line in said if line.startswith("warning")] == []
    return said


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed: extra tensorboard")
def test_tensorboard_shows_a_step_that_was_done_again_once(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start_twice("tensorboard", folder)
    events = EventAccumulator(str(folder.tensorboard)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 12.0), (3, 13.0)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: extra wandb")
def test_wandb_writes_offline_without_a_key_and_goes_on_with_its_run(folder, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(folder.path / "no-netrc"))
    monkeypatch.setattr(tracking, "_PATIENCE", HANG)
    said = start_twice("wandb", folder)
    assert said == [f"wandb: no API key, so the run is written to {folder.path / 'wandb'}; wandb sync sends it"] * 2
    ids = tracking._Records(folder, ["wandb"]).ids
    starts = sorted((folder.path / "wandb").glob("offline-run-*"))
    assert [path.name.rpartition("-")[2] for path in starts] == [ids["wandb"]] * 2
    for path in starts:
        assert b"train/loss" in (path / f"run-{ids['wandb']}.wandb").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed: extra trackio")
def test_trackio_goes_on_with_its_run(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("TRACKIO_PROJECT", "films")
    monkeypatch.setattr(tracking, "_PATIENCE", HANG)
    start_twice("trackio", folder)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("films")
    assert [(row["step"], row["train/loss"]) for row in SQLiteStorage.get_logs("films", run.name)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 13.0),
    ]
    assert run.name == f"holiday-{tracking._Records(folder, ['trackio']).ids['trackio']}"
