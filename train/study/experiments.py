"""The experiments on the sample: commands of the project, each with where its result is found.

Every experiment is a command that a user could type; the folder or file that it writes under the study's folder is its
result, so a study that was stopped continues where it was.
"""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.errors import UserError
from vatt.files import TREE
from vatt.process import running
from vatt.results import Table

SAMPLE = Path("runs/sample-clips")
DROPPED = (0, 25, 50, 75)  # per cent of the patches
LONG, SHORT = 780, 260  # steps of pretraining: for what follows, and for the comparison of DropToken
TASKS = (("video", "motion"), ("video", "shape"), ("image", "shape"), ("image", "motion"))
FEW = 50  # steps of fine-tuning where the recipe's 200 bring every start to the same ceiling
PROBED = tuple((task, label) for task in ("video", "audio") for label in ("colour", "size", "shape", "motion"))
Figures = dict[str, Any]


class StudyError(UserError, RuntimeError):
    """An experiment whose result cannot be read. The message names the file."""


@dataclass(frozen=True)
class Experiment:
    """One command.

    Attributes:
        what: kind, task, label, init, dropped and seed, as columns of the results.
        command: after the interpreter.
        result: what the command writes when it has ended.
    """

    what: dict[str, Any]
    command: tuple[str, ...]
    result: Path

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return " ".join(["python", *map(shlex.quote, self.command)])


def pretraining(out: Path, seed: int, steps: int, dropped: int = 50) -> Experiment:
    """The sample's pretraining, longer than its recipe or with another share of the patches dropped (per cent)."""
    folder = _pretrained(out, seed, steps, dropped)
    command = ("train/pretrain.py", "--config", "sample", "--model", "vatt-tiny", "--steps", str(steps))
    rates = [f"model.{part}.patch_sampling_rate={1 - dropped / 100:g}" for part in ("video", "waveform")]
    return Experiment(
        dict(kind="pretrain", task="retrieval", label="caption", init="random", dropped=dropped, seed=seed),
        (*command, "--out", str(folder), f"run.seed={seed}", "run.eval_every=0", *(rates if dropped != 50 else ())),
        folder / "retrieval.json",
    )


def _pretrained(out: Path, seed: int, steps: int = LONG, dropped: int = 50) -> Path:
    return out / f"pretrain-{steps}-drop{dropped}-seed{seed}"


def probe(out: Path, init: str, seed: int, task: str, label: str) -> Experiment:
    """A linear probe on the frozen backbone: pretrained, or as it is before any training (``init`` "random")."""
    result = out / f"probe-{init}-seed{seed}-{task}-{label}.json"
    command = ("train/evaluate.py", "--task", "probe", "--model", str(_pretrained(out, seed)), "--modality", task)
    data = ("--data", str(SAMPLE / "manifest.csv"), "--label", label, "--classifier", "low-rank")
    quick = ("--steps", "10000", "--clips", "1", "--workers", "1")  # a window covers most of a clip of the sample
    random = ("--random-init", str(seed)) if init == "random" else ()
    return Experiment(
        dict(kind="probe", task=task, label=label, init=init, seed=seed),
        (*command, *data, *quick, "--seed", str(seed), *random, "--out", str(result)),
        result,
    )


def finetuning(
    out: Path, init: str, seed: int, task: str, label: str, dropped: int = 0, steps: int | None = None
) -> Experiment:
    """Fine-tuning from the pretrained model of the seed, or from random weights, for equally many steps (None: the
    recipe's)."""
    folder = out / f"finetune-{init}-drop{dropped}-seed{seed}-{task}-{label}{f'-{steps}' if steps else ''}"
    data = SAMPLE / ("pictures.csv" if task == "image" else "manifest.csv")
    command = ("train/finetune.py", "--task", task, "--config", "sample", "--data", str(data), "--label", label)
    source = ("--init", str(_pretrained(out, seed))) if init == "pretrained" else ("--model", "vatt-tiny")
    shorter = ("--steps", str(steps)) if steps else ()
    kept = ("model.video.random_patch_sampling=true", f"model.video.patch_sampling_rate={1 - dropped / 100:g}")
    return Experiment(
        dict(kind="finetune", task=task, label=label, init=init, dropped=dropped, seed=seed),
        (*command, *source, *shorter, "--out", str(folder), f"run.seed={seed}", *(kept if dropped else ())),
        folder / "evaluation.json",
    )


def study(out: Path, seeds: Sequence[int]) -> list[Experiment]:
    """All experiments in an order in which they can run, what says most first."""
    found = [pretraining(out, seed, LONG) for seed in seeds]
    for task, label in PROBED:
        found += [probe(out, init, seed, task, label) for seed in seeds for init in ("pretrained", "random")]
    for task, label in TASKS:
        found += [finetuning(out, init, seed, task, label) for seed in seeds for init in ("pretrained", "random")]
    for seed in seeds:
        found += [finetuning(out, init, seed, "audio", "shape", steps=FEW) for init in ("pretrained", "random")]
    for seed in seeds:
        found += [finetuning(out, "pretrained", seed, "video", "motion", dropped) for dropped in DROPPED[1:]]
        found += [pretraining(out, seed, SHORT, dropped) for dropped in DROPPED]
    return found


def run_missing(
    found: Sequence[Experiment],
    table: Table,
    origin: Callable[[Path], dict[str, Any]],
    row_of: Callable[[Experiment, dict[str, Any]], dict[str, Any]],
    **same: Any,
) -> None:
    """Runs what has no row with its command, and the columns ``same``, in the table yet, and adds its row.

    Args:
        origin: where a row that is made now comes from; asked before the command.
        row_of: of an experiment that has ended, and its origin.

    Raises:
        ProcessFailed: a command ended badly. StudyError: its result cannot be read.
    """
    for number, experiment in enumerate(found, start=1):
        if table.find(command=experiment.line, **same):
            continue
        print(f"{number}/{len(found)} {experiment.line}", flush=True)
        where = origin(table.path)
        if not experiment.result.is_file():
            if experiment.what["kind"] != "probe":  # the folder of a run that was stopped
                shutil.rmtree(experiment.result.parent, ignore_errors=True)
            with running([sys.executable, *experiment.command], folder=TREE, name=experiment.line) as process:
                process.finish()
        row = row_of(experiment, where)
        table.add(row)
        print(f"    {row['metric']} {100 * row['value']:.1f}% (chance {100 * row['chance']:.1f}%)", flush=True)


def figures(experiment: Experiment) -> Figures:
    """What the result of an experiment that has ended says: the metric and its figures. Raises StudyError."""
    try:
        content = json.loads(experiment.result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{experiment.result}: cannot be read: {error}") from error
    if experiment.what["kind"] == "probe":
        (row,) = content["rows"]
        found = {"value": row["top1"], "second": row["top5"], "chance": row["chance"], "n": row["n_test"]}
        return {"metric": "top-1", **found, "steps": content["low_rank"]["steps"]}
    table = content["table"]
    if experiment.what["kind"] == "pretrain":
        recalls = {"value": table["text_to_video"]["r5"], "second": table["audio_to_video"]["r5"]}
        found = {"metric": "R@5 text -> video", **recalls, "chance": table["chance"]["r5"], "n": table["chance"]["n"]}
    else:
        found = {"metric": "top-1", "value": table["top1"], "second": table["top5"]}
        found |= {"chance": table["chance"], "n": table["n"]}
    lines = (experiment.result.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    pace = statistics.median_high(record["samples_per_s"] for record in records)
    return found | {"steps": records[-1]["step"], "samples_per_s": pace}
