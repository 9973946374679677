"""Trackers of a run: TensorBoard, wandb and trackio get the figures that metrics.jsonl has, chosen by ``run.track``.

A tracker is a guest. Each has a thread of its own, in which it starts, writes and ends, so that no step waits for a
disk, a network or a server; what fails there is one warning, and the run goes on without it. Only rank 0 has trackers.

A resumed run goes on with the run that its tracker has: the ids are in ``tracking.json`` of the folder of the run.
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
from vatt.json_files import JSONError, read_json

PROJECT = "vatt"  # where WANDB_PROJECT or TRACKIO_PROJECT do not name another
_PATIENCE = 30.0  # seconds that a tracker has to end; what it has written by then lies on the disk
_MOST = 10_000  # records that wait for a tracker
Values = Mapping[str, float]


class Writer(Protocol):
    """What a tracker does with the figures of a run."""

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
            raise ConfigError(f"run.track: {name} is not installed; pip install 'vatt-torch[{name}]'")
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
            ids = _ids(self.folder, self.names)
            self._threads = [
                _Tracker(name, TrackedRun(self.folder, ids[name], self.config, self.step, self.say))
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

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name, self.run = name, run
        self._todo: queue.Queue[tuple[int, Values] | bool] = queue.Queue(_MOST)
        self._gone = False  # it has failed, or does not keep up
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def hand_on(self, item: tuple[int, Values] | bool) -> None:
        if self._gone:
            return
        try:
            self._todo.put_nowait(item)
        except queue.Full:
            self._give_up(f"takes no figures any more ({_MOST} of them wait)")

    def wait(self) -> None:
        self._thread.join(0.0 if self._gone else _PATIENCE)
        if self._thread.is_alive() and not self._gone:
            self._give_up(f"did not end in {_PATIENCE:.0f} s", "what it had written by then is there")

    def _work(self) -> None:
        try:
            writer = TRACKERS[self.name](self.run)
            while not isinstance(item := self._todo.get(), bool):
                writer.write(*item)
            writer.close(item)
        except BaseException as error:  # whatever it is, SystemExit too: it is the tracker's, not the run's
            reason = str(error).strip().split("\n")[0]
            self._give_up(f"failed: {type(error).__name__}{': ' if reason else ''}{reason}")

    def _give_up(self, why: str, then: str = "the run goes on without it") -> None:
        self._gone = True
        with suppress(OSError):  # the terminal may be gone
            self.run.say(f"warning: run.track: {self.name} {why}; {then}")


def _ids(folder: RunFolder, names: list[str]) -> dict[str, str]:
    """The id of this run for each tracker, made where there is none yet."""
    try:
        found = {name: text for name, text in read_json(folder.tracking, dict).items() if isinstance(text, str)}
    except (OSError, JSONError):
        found = {}
    ids = {**{name: uuid.uuid4().hex[:12] for name in names}, **found}
    if ids != found:
        with suppress(OSError):  # the next checkpoint tells of a full disk
            folder.write_json(folder.tracking, ids)
    return ids


def _has_key() -> bool:
    """Whether wandb has a key to send by; it would ask for one on a terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
