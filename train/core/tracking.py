"""Trackers of a run: TensorBoard, wandb and trackio get the figures that metrics.jsonl has, chosen by ``run.track``.

A tracker is a guest. Each has a thread of its own, in which it starts, writes and ends, so that no step waits for a
disk, a network or a server; what fails there is one warning, and the run goes on without it. Only rank 0 has trackers.

A resumed run goes on with the run that its tracker has: ``tracking.json`` of the folder of the run has the ids, and up
to which step a tracker that cannot forget has figures; what is done again is not written twice.
"""

from __future__ import annotations

import netrc
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from train.core.run_folder import RunFolder
from vatt.config import ConfigError
from vatt.errors import printable
from vatt.extras import install
from vatt.json_files import JSONError, read_json

PROJECT = "vatt"  # where WANDB_PROJECT or TRACKIO_PROJECT do not name another
_PATIENCE = 30.0  # seconds that a tracker has to end; what it has written by then lies on the disk
_MOST = 10_000  # records that wait for a tracker
_STEPS = "steps"  # in tracking.json, beside the ids
Values = Mapping[str, float]


class Writer(Protocol):
    """What a tracker does with the figures of a run. One with a true attribute ``forgets`` also gets those of steps
    that a resumed run does again."""

    def write(self, step: int, values: Values) -> None:
        """Figures after ``step`` steps by name, such as "train/loss"."""

    def close(self, failed: bool) -> None:
        """Writes what is left; ``failed``: the run ended by an error."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        id: the same for all of its starts, and of no other run.
        config: all settings.
        step: the number of steps done at this start; figures of later ones may have been written before.
        say: a line for people.
    """

    folder: RunFolder
    id: str
    config: dict[str, Any]
    step: int
    say: Callable[[str], object]

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name


class TensorBoard:
    """Event files in the folder of the run; those of steps that are done again are hidden."""

    forgets = True

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = run.step + 1 if run.folder.tensorboard.is_dir() else None
        self.writer = SummaryWriter(str(run.folder.tensorboard), purge_step=purge)

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases; without an API key, or by WANDB_MODE=offline, written to the folder of the run."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        mode = None if "WANDB_MODE" in os.environ or _has_key() else "offline"
        if mode:
            run.say(f"wandb: no API key, so the run is written to {run.folder.path / 'wandb'}; wandb sync sends it")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run.id,
            resume="allow",
            dir=str(run.folder.path),
            config=run.config,
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True),  # it would take our output to itself
        )
        # By a figure of our own: wandb drops what comes for a step of its own that has gone by.
        self.run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Values) -> None:
        self.run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio, in its own store on this machine (TRACKIO_DIR), or where TRACKIO_SPACE_ID says."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.id}",  # a run is known by its name alone
            config=run.config,
            resume="allow",
            embed=False,
        )

    def write(self, step: int, values: Values) -> None:
        self.run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Writer]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}
AUTO, NONE = "auto", "none"


def choose_trackers(track: str) -> list[str]:
    """The trackers that ``run.track`` names.

    Raises:
        ConfigError: one of them is not installed; the message names the extra.
    """
    if track == AUTO:
        return ["tensorboard"] if find_spec("tensorboard") else []
    names = [] if track == NONE else list(dict.fromkeys(name.strip() for name in track.split(",")))
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(f"run.track: {name} is not installed: {install(name)}")
    return names


class Trackers:
    """The trackers of a run; they start with its first figures, so that a run which never began leaves nothing."""

    def __init__(
        self, names: list[str], folder: RunFolder, config: dict[str, Any], step: int, say: Callable[[str], object]
    ) -> None:
        self.names, self.folder, self.config, self.step, self.say = names, folder, config, step, say
        self._threads: list[_Tracker] | None = None

    def write(self, step: int, values: Values) -> None:
        """Hands figures on; returns at once."""
        if self._threads is None:
            records = _Records(self.folder, self.names)
            self._threads = [
                _Tracker(name, TrackedRun(self.folder, records.ids[name], self.config, self.step, self.say), records)
                for name in self.names
            ]
        for thread in self._threads:
            thread.hand_on((step, values))

    def close(self, failed: bool) -> None:
        """Ends the trackers, each in bounded time."""
        threads, self._threads, self.names = self._threads or [], [], []
        for thread in threads:
            thread.hand_on(failed)
        for thread in threads:
            thread.wait()


class _Tracker:
    """One tracker, in its thread."""

    def __init__(self, name: str, run: TrackedRun, records: _Records) -> None:
        self.name, self.run, self.records = name, run, records
        self._todo: queue.Queue[tuple[int, Values] | bool] = queue.Queue(_MOST)
        self._gone = False  # it has failed, or does not keep up
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no thread left
            self._give_up(f"did not start: {error}")

    def hand_on(self, item: tuple[int, Values] | bool) -> None:
        if self._gone:
            return
        try:
            self._todo.put_nowait(item)
        except queue.Full:
            self._give_up(f"takes no figures any more ({_MOST} of them wait)")

    def wait(self) -> None:
        if self._gone:
            return
        self._thread.join(_PATIENCE)
        if self._thread.is_alive() and not self._gone:
            self._give_up(f"did not end in {_PATIENCE:.0f} s", "what it had written by then is there")

    def _work(self) -> None:
        try:
            writer = TRACKERS[self.name](self.run)
            forgets = getattr(writer, "forgets", False)
            while not isinstance(item := self._todo.get(), bool):
                step, values = item
                if forgets or self.records.are_new(self.name, step, values):
                    writer.write(step, values)
                if not forgets:
                    self.records.note(self.name, step, values)
            writer.close(item)
        except BaseException as error:  # whatever it is, SystemExit too: it is the tracker's, not the run's
            self._give_up(f"failed: {type(error).__name__}{_reason(error)}")

    def _give_up(self, why: str, then: str = "the run goes on without it") -> None:
        self._gone = True
        with suppress(Exception):  # the terminal may be gone, or know no such letter
            self.run.say(f"warning: run.track: {self.name} {why}; {then}")


def _reason(error: BaseException) -> str:
    """What an error of somebody else's says, in a line; its own text may fail."""
    try:
        reason = printable(str(error).strip().split("\n")[0])
    except Exception:
        return ""
    return f": {reason}" if reason else ""


class _Records:
    """``tracking.json``: the ids of this run for its trackers, made where there are none yet, and the newest step of
    each kind of figures ("train", "eval") that they have."""

    def __init__(self, folder: RunFolder, names: list[str]) -> None:
        self._folder, self._lock = folder, threading.Lock()
        try:
            found = read_json(folder.tracking, dict)
        except (OSError, JSONError):
            found = {}
        known = {name: text for name, text in found.items() if isinstance(text, str)}
        self.ids = {**{name: uuid.uuid4().hex[:12] for name in names}, **known}
        steps = found.get(_STEPS)
        self._steps: dict[str, dict[str, int]] = {}
        for name, kinds in steps.items() if isinstance(steps, dict) else ():
            kinds = kinds if isinstance(kinds, dict) else {}
            self._steps[name] = {kind: step for kind, step in kinds.items() if isinstance(step, int)}
        if self.ids != known:
            self._write()

    def are_new(self, name: str, step: int, values: Values) -> bool:
        """Whether a tracker has no such figures of ``step`` yet."""
        return step > self._steps.get(name, {}).get(_kind(values), -1)

    def note(self, name: str, step: int, values: Values) -> None:
        """A tracker has the figures of ``step`` now."""
        with self._lock:
            kinds = self._steps.setdefault(name, {})
            kinds[_kind(values)] = max(step, kinds.get(_kind(values), -1))
            self._write()

    def _write(self) -> None:
        with suppress(OSError):  # the next checkpoint tells of a full disk
            self._folder.write_json(
                self._folder.tracking, {**self.ids, **({_STEPS: self._steps} if self._steps else {})}
            )


def _kind(values: Values) -> str:
    return next(iter(values), "").partition("/")[0]


def _has_key() -> bool:
    """Whether wandb has a key to send by; it would ask for one on a terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
