"""The folder of a run: where everything goes, and that it can go there, from one job at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from train.core.run_lock import NAME as LOCK
from train.core.run_lock import RunLock
from vatt.config import ConfigError, load
from vatt.files import write_text
from vatt.models.config import saved_values

_INPUT = {"frames", "fps", "size", "sample_rate", "words", "candidates"}  # what every run has written of model.input
# What a start leaves that was stopped, or refused, before its first record and checkpoint.
_OF_A_START = {
    *("config.json", "deepspeed.json", "environment.json", "kernels.json", "recipe.json", "tokenizer.json"),
    *("skipped.jsonl", "data.json", LOCK),
}
# And what one leaves that was stopped before its first checkpoint.
_OF_A_RUN = {
    "metrics.jsonl",
    "retrieval.json",
    "evaluation.json",
    "tensorboard",
    "wandb",
    "tracking.json",
    "checkpoints",
}


def load_config(path: Path) -> dict[str, Any]:
    """The values of a configuration file, by a run or by a user, see `vatt.config.load`.

    A run writes all settings. One of the time before there was ``model.input.audio_level`` took sounds as they are, and
    whoever goes on with it or repeats it means that.
    """
    values = load(path)
    model = values.get("model")
    if isinstance(model, dict) and isinstance(spec := model.get("input"), dict) and spec.keys() >= _INPUT:
        return {**values, "model": saved_values(model)}
    return values


class RunFolder:
    """Paths in the folder of a run. ``create`` or ``reopen`` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.deepspeed = path / "deepspeed.json"
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.jsonl"
        self.retrieval = path / "retrieval.json"
        self.evaluation = path / "evaluation.json"
        self.environment = path / "environment.json"
        self.data = path / "data.json"
        self.kernels = path / "kernels.json"
        self.recipe = path / "recipe.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.tensorboard = path / "tensorboard"
        self.tracking = path / "tracking.json"

    @classmethod
    def create(
        cls, out: Path | None, name: str, restart: bool = False, say: Callable[[str], object] = lambda text: None
    ) -> RunFolder:
        """A new folder, locked: ``out``, or the next free runs/<name>, runs/<name>-2, ... ``out`` must be empty or
        absent, or hold nothing but what a start has left that did not come to its first record.

        Args:
            restart: it may also hold a run without a checkpoint, which is started again: its records are removed.
            say: see `RunLock`.

        Raises:
            ConfigError: ``out`` holds files, or cannot be written. InUse: another job has it.
        """
        if out is not None and not (out / LOCK).is_file():  # else the job that has it is named, whatever it has written
            cls.check_new(out, restart)
        try:
            path = out or _next_free(name)
            path.mkdir(parents=True, exist_ok=True)
            lock = RunLock(path, say)
        except OSError as error:
            raise ConfigError(f"--out {out or 'runs'}: cannot be written: {error.strerror or error}") from error
        folder = cls(path)
        try:
            if out is not None:  # the job that has just ended may have left something
                cls.check_new(out, restart)
            if restart:
                folder.remove_records()
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def check_new(cls, out: Path | None, restart: bool = False) -> None:
        """Raises ConfigError: ``out`` holds files, so that no new run can go there. ``restart``: as in `create`."""
        found = {path.name for path in out.iterdir()} if out is not None and out.is_dir() else set()
        names = {name for name in found if not name.startswith(".")}  # of writing that was killed
        if not names - _OF_A_START and names - {LOCK} != {"config.json"}:  # which somebody may have written by hand
            return
        assert out is not None
        if "config.json" not in names or names - _OF_A_START - _OF_A_RUN or not names - {LOCK, "config.json"}:
            raise ConfigError(f"--out {out}: holds files, and no run; choose an empty folder")
        if cls(out).has_checkpoints():
            raise ConfigError(f"--out {out}: holds a run; choose an empty folder, or add --resume to go on with it")
        if not restart:
            raise ConfigError(
                f"--out {out}: holds a run without a checkpoint; choose an empty folder, or add --resume to begin again"
            )

    @classmethod
    def reopen(cls, out: Path) -> RunFolder:
        """The folder of a run to go on with. Raises ConfigError if it is none."""
        folder = cls(out)
        if not folder.config.is_file():
            raise ConfigError(f"--resume: {out} holds no run that has begun (no config.json); leave --resume out")
        return folder

    @classmethod
    def can_resume(cls, out: Path) -> bool:
        """For ``--resume auto``: whether ``out`` has a run to go on with; else one can be started there.

        Raises:
            ConfigError: neither; the message says why not.
        """
        folder = cls(out)
        if folder.has_checkpoints():
            if not folder.config.is_file():
                raise ConfigError(f"--resume auto: {out} holds checkpoints, but no config.json that says of what run")
            return True
        cls.check_new(out, restart=True)
        return False

    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint, whole or damaged."""
        return any(self.checkpoints.glob("step-*"))

    def remove_records(self) -> None:
        """Of a run that is started again: what it left."""
        for name in _OF_A_RUN | {"skipped.jsonl"}:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def write_config(self, content: dict[str, Any], step: int) -> None:
        """The settings: those that a run begins with are written once. Where it goes on with others, they come in their
        place by a rename, and the earlier ones stay beside them, named by the step up to which they held."""
        if self.config.is_file():
            text = self.config.read_text(encoding="utf-8")
            if text == _as_text(content):
                return
            earlier = self.path / f"config-until-{step:08d}.json"
            if step and not earlier.exists():
                write_text(earlier, text)
        self.write_json(self.config, content)

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Whole or not at all: a resumed run writes its configuration again, and may be killed while it does."""
        write_text(path, _as_text(content))

    def forget_metrics_after(self, step: int) -> None:
        """Drops the records of steps that a resumed run will do again."""
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that an interruption cut short
                continue
            if record["step"] <= step:
                kept.append(line + "\n")
        write_text(self.metrics, "".join(kept))


def _as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1)


def _next_free(name: str) -> Path:
    """Makes runs/<name>, runs/<name>-2, ..., the first that is not there: two jobs that start at once take two."""
    for n in count(1):
        path = Path("runs") / (name if n == 1 else f"{name}-{n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError
