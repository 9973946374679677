"""The folder of a run: where everything goes, and that it can go there."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

from vatt.config import ConfigError, load
from vatt.files import write_text
from vatt.models.config import saved_values

_INPUT = {"frames", "fps", "size", "sample_rate", "words", "candidates"}  # what every run has written of model.input
# What a start leaves that was stopped, or refused, before its first record and checkpoint.
_OF_A_START = {
    *("config.json", "deepspeed.json", "environment.json", "kernels.json", "recipe.json", "tokenizer.json"),
    "skipped.jsonl",
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
        self.kernels = path / "kernels.json"
        self.recipe = path / "recipe.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, out: Path | None, name: str) -> RunFolder:
        """A new folder: ``out``, or the next free runs/<name>, runs/<name>-2, ... ``out`` must be empty or absent, or
        hold nothing but what a start has left that did not come to its first record.

        Raises:
            ConfigError: ``out`` holds files, or cannot be written.
        """
        if out is None:
            free = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in count(1))
            path = next(path for path in free if not path.exists())
        else:
            path = out
            cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".writable-{os.getpid()}"
            probe.write_text("probe")
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"--out {path}: cannot be written: {error.strerror or error}") from error
        return cls(path)

    @staticmethod
    def check_new(out: Path | None) -> None:
        """Raises ConfigError: ``out`` holds files, so that no new run can go there."""
        names = {path.name for path in out.iterdir()} if out is not None and out.is_dir() else set()
        if names - _OF_A_START or names == {"config.json"}:  # which somebody may have written by hand
            raise ConfigError(f"--out {out}: holds files; choose an empty folder, or add --resume to go on with it")

    @classmethod
    def reopen(cls, out: Path) -> RunFolder:
        """The folder of a run to go on with. Raises ConfigError if it is none."""
        folder = cls(out)
        if not folder.config.is_file():
            raise ConfigError(f"--resume: {out} holds no run that has begun (no config.json); leave --resume out")
        return folder

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Whole or not at all: a resumed run writes its configuration again, and may be killed while it does."""
        write_text(path, json.dumps(content, indent=1))

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
