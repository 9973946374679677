"""What a person sees of a run, and the same as records in metrics.jsonl and for its trackers."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from train.core.pace import Eta
from train.core.run_folder import RunFolder
from train.core.tracking import Trackers
from vatt.errors import printable

SHORT = {"vidtxt_loss": "vid-txt", "vidaud_loss": "vid-aud", "audtxt_loss": "aud-txt", "accuracy": "accuracy"}
MISSING = {"vidtxt_loss": "no captions", "vidaud_loss": "no sound", "audtxt_loss": "no pairs"}  # where no clip counts
ALIKE = 0.95  # mean cosine above which the embeddings of different clips are nearly the same


class Reporter:
    """Prints on rank 0 and writes the records; on other ranks it does nothing.

    Args:
        speak: whether this is rank 0.
        steps: of the whole run.
    """

    def __init__(self, folder: RunFolder, speak: bool, steps: int) -> None:
        self.folder, self.speak, self.steps = folder, speak, steps
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.trackers: Trackers | None = None  # rank 0 of a run gets them
        self._progress: Progress | None = None

    def say(self, text: str = "") -> None:
        """A line for people, on rank 0."""
        if self.speak:
            self.console.print(printable(text, keep="\n"), markup=False)
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
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
        with Progress(*columns, console=self.console) as self._progress:
            self._task = self._progress.add_task("training", total=self.steps, completed=done, eta="")
            yield
        self._progress = None

    def advance(self, done: int, eta: Eta | None = None) -> None:
        """Moves the progress bar to ``done`` steps, with the time to go."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, eta="" if eta is None else f"ETA {eta}")

    def train(self, record: dict[str, Any], keep: bool = True) -> None:
        """Logs a training record: a line and, to ``keep`` it, a line of JSON, which trackers get too."""
        if self.speak:
            self.say(train_line(record, self.steps))
            if keep:
                self._write({"kind": "train", **record})

    def evaluation(self, step: int, table: dict[str, Any]) -> None:
        """Records the figures of an evaluation after ``step`` steps."""
        if self.speak:
            self._write({"kind": "eval", "step": step, **table})

    def _write(self, record: dict[str, Any]) -> None:
        with self.folder.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.trackers is not None:
            self.trackers.write(record["step"], {f"{record['kind']}/{name}": value for name, value in _flat(record)})

    def close(self, failed: bool = False) -> None:
        """Ends the trackers, once; ``failed``: the run ended by an error."""
        if self.trackers is not None:
            self.trackers.close(failed)


def train_line(record: dict[str, Any], steps: int) -> str:
    """One line: step, share done, losses with their chance, rate, speed, waiting, memory, time to go."""
    step = record["step"]
    parts = [f"step {step:>{len(str(steps))}}/{steps} {100 * step / steps:5.1f}%", f"loss {record['loss']:.3f}"]
    if pairs := " ".join(_pair(record, name, short) for name, short in SHORT.items() if name in record):
        parts.append(pairs)
    parts.append(f"lr {record['lr']:.2e}")
    if record["eta"] is None:  # the first figures: of one step, which waited for the first clips, and compiled
        parts.append(f"first step {record['step_s']:.1f} s")
    else:
        parts.append(f"{record['samples_per_s']:.1f} samples/s")
        parts += [] if record["mfu"] is None else [f"MFU {100 * record['mfu']:.1f}%"]
    parts += [f"data wait {100 * record['data_wait']:.0f}%", f"{record['memory_gb']:.2f} GB"]
    if record["eta"] is not None:
        parts.append(f"ETA {Eta(record['eta'], record['eta_measured'])}")
    return " | ".join(parts)


def _pair(record: dict[str, Any], name: str, short: str) -> str:
    """A loss beside its chance, and the sides whose embeddings are nearly all alike."""
    pair = name.removesuffix("_loss")
    chance = record.get(f"{pair}_chance")
    if chance == 0:
        return f"{short} {MISSING[name]}"
    if chance is None:
        return f"{short} {record[name]:.3f}"
    alike = [f", {side} alike {cosine:.3f}" for side, cosine in cosines(record, pair) if cosine > ALIKE]
    return f"{short} {record[name]:.3f} (chance {chance:.2f}{''.join(alike)})"


def cosines(record: Mapping[str, Any], pair: str) -> list[tuple[str, float]]:
    """The mean cosine between the embeddings of different clips, by side of a pair such as "vidaud"."""
    sides = ((side, record.get(f"{pair}_{side}_cosine")) for side in ("video", "audio", "text"))
    return [(side, cosine) for side, cosine in sides if cosine is not None]


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
