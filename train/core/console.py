"""What a person sees of a run, and the same as records in metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train.core.run_folder import RunFolder

_SHORT = {"vidtxt_loss": "vid-txt", "vidaud_loss": "vid-aud", "audtxt_loss": "aud-txt", "accuracy": "accuracy"}


class Reporter:
    """Prints on rank 0 and writes the records; on other ranks it does nothing.

    Args:
        speak: whether this is rank 0.
        steps: of the whole run.
    """

    def __init__(self, folder: RunFolder, speak: bool, steps: int) -> None:
        self.folder, self.speak, self.steps = folder, speak, steps
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def say(self, text: str = "") -> None:
        """A line for people, on rank 0."""
        if self.speak:
            self.console.print(text, markup=False)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """A warning for people, on rank 0."""
        self.say(f"warning: {text}")

    @contextmanager
    def progress(self, done: int) -> Iterator[None]:
        """A progress bar below the lines, on a terminal."""
        if not (self.speak and self.console.is_terminal):
            yield
            return
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as self._progress:
            self._task = self._progress.add_task("training", total=self.steps, completed=done)
            yield
        self._progress = None

    def advance(self, done: int) -> None:
        """Moves the progress bar to ``done`` steps."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def train(self, record: dict[str, Any]) -> None:
        """Logs a training record: a line, a line of JSON, and TensorBoard scalars."""
        if self.speak:
            self.say(train_line(record, self.steps))
            self._write({"kind": "train", **record})

    def evaluation(self, step: int, table: dict[str, Any]) -> None:
        """Records the figures of an evaluation after ``step`` steps."""
        if self.speak:
            self._write({"kind": "eval", "step": step, **table})

    @cached_property
    def _board(self) -> Any:
        """Made with the first record: a run that never began leaves no file."""
        return _tensorboard(self.folder) if self.speak else None

    def _write(self, record: dict[str, Any]) -> None:
        with self.folder.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in _flat(record):
                self._board.add_scalar(f"{record['kind']}/{name}", value, record["step"])
            self._board.flush()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self.__dict__.get("_board") is not None:
            self._board.close()


def train_line(record: dict[str, Any], steps: int) -> str:
    """One line: step, share done, losses, rate, speed, waiting, memory, time to go."""
    step = record["step"]
    pairs = " ".join(f"{short} {record[name]:.3f}" for name, short in _SHORT.items() if name in record)
    mfu = "n/a" if record["mfu"] is None else f"{100 * record['mfu']:.1f}%"
    eta = timedelta(seconds=round(record["eta"]))
    return (
        f"step {step:>{len(str(steps))}}/{steps} {100 * step / steps:5.1f}% | loss {record['loss']:.3f}"
        f"{f' ({pairs})' if pairs else ''} | "
        f"lr {record['lr']:.2e} | {record['samples_per_s']:.1f} samples/s | {record['tflops']:.3f} TFLOP/s | "
        f"MFU {mfu} | data wait {100 * record['data_wait']:.0f}% | {record['memory_gb']:.2f} GB | ETA {eta}"
    )


@dataclass(frozen=True)
class Waits:
    """Seconds that the host has waited so far: for the loader, for the device, and for other ranks."""

    data: float = 0.0
    device: float = 0.0
    ranks: float = 0.0


class Throughput:
    """Speed since the last record: samples per second, the shares of waiting, time to go."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._since, self._step, self._waits = time.monotonic(), 0, Waits()

    def restart(self, step: int, waits: Waits) -> None:
        """Begins a new interval, so that what was done in between (evaluation, saving) does not count."""
        self._since, self._step, self._waits = time.monotonic(), step, waits

    def measure(self, step: int, waits: Waits, batch_size: int) -> dict[str, float]:
        """The figures of the steps since the last call."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        steps, before = step - self._step, asdict(self._waits)
        shares = {f"{name}_wait": min((now - before[name]) / seconds, 1.0) for name, now in asdict(waits).items()}
        figures = {
            "samples_per_s": steps * batch_size / seconds,
            **shares,
            "eta": (self.steps - step) * seconds / max(steps, 1),
        }
        self.restart(step, waits)
        return figures


def memory_gb() -> float:
    """Peak memory in GB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "time"):
            yield f"{prefix}{name}", value


def _tensorboard(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is optional
        return None
    return SummaryWriter(str(folder.tensorboard))
