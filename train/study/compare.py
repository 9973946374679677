"""VATT beside the convolutional baseline (MMV) on the sample, under one recipe: ``python -m train.study.compare``.

Pretrains vatt-tiny and mmv-tiny by the same commands, fine-tunes both, and from random weights; adds a row per command
to the results file, and writes the table of docs/compare.md. What was done before is not done again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from train.study.experiments import SAMPLE, Experiment, StudyError, figures, run_missing
from train.study.search import origin
from train.study.tables import spread
from vatt import results
from vatt.analysis.describe import describe_folder
from vatt.analysis.flops import classifier_flops, train_flops_per_sample
from vatt.errors import UserError, printable
from vatt.files import TREE
from vatt.models.config import VATTConfig
from vatt.results import Row, Table
from vatt.sample import build
from vatt.weights.folder import model_folder, read_config

PAGE = TREE / "docs" / "compare.md"
RESULTS = TREE / "bench" / "results" / "compare.csv"
OUT = Path("runs/compare")
MODELS = ("vatt-tiny", "mmv-tiny")
TUNED = (("video", "motion"), ("audio", "shape"))
FIELDS = (
    *("model", "kind", "task", "label", "init", "seed", "metric", "value", "second", "chance", "n", "steps"),
    *("samples_per_s", "memory_gb", "parameters", "gflops", "time", "commit", "dirty", "device", "versions", "command"),
)
_MARKS = re.compile(r"(<!-- table: compare -->)\n.*?<!-- end -->", re.S)


def comparison(out: Path, seeds: Sequence[int], steps: int | None = None) -> list[Experiment]:
    """Both models in turns, in an order in which the commands can run. ``steps``: fewer than the recipes have."""
    shorter = ("--steps", str(steps)) if steps else ()
    found = []
    for seed in seeds:
        for model in MODELS:
            folder = out / f"{model}-seed{seed}"
            words = ("--config", "sample", "--model", model, *shorter, "--out", str(folder), f"run.seed={seed}")
            about: dict[str, Any] = dict(model=model, kind="pretrain", task="retrieval", label="caption", seed=seed)
            command = ("train/pretrain.py", *words, "run.eval_every=0")
            found.append(Experiment({**about, "init": "random"}, command, folder / "retrieval.json"))
            for task, label in TUNED:
                for init, source in (("pretrained", ("--init", str(folder))), ("random", ("--model", model))):
                    into = out / f"{model}-seed{seed}-{init}-{task}-{label}"
                    data = ("--data", str(SAMPLE / "manifest.csv"), "--label", label)
                    words = ("--task", task, "--config", "sample", *data, *source, *shorter, "--out", str(into))
                    what = {**about, "kind": "finetune", "task": task, "label": label, "init": init}
                    command = ("train/finetune.py", *words, f"run.seed={seed}")
                    found.append(Experiment(what, command, into / "evaluation.json"))
    return found


def row_of(experiment: Experiment, where: dict[str, Any]) -> dict[str, Any]:
    """The row of a command that has ended: what it found, and what it took. Raises StudyError: it left no result."""
    run = experiment.result.parent
    found = figures(experiment)
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        memory = max(record["memory_gb"] for record in map(json.loads, lines) if record["kind"] == "train")
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{run}: holds no finished run: {error}") from error
    config = read_config(model_folder(run))
    work = train_flops_per_sample(config) if isinstance(config, VATTConfig) else 3 * classifier_flops(config, True)
    costs = {"memory_gb": memory, "parameters": describe_folder(run)["parameters"]["total"], "gflops": work / 1e9}
    return {**experiment.what, **found, **costs, **where, "command": experiment.line}


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per figure, a column per model; means over seeds with their deviation."""
    rows = list({row["command"]: row for row in rows}.values())
    own = {model: [row for row in rows if row["model"] == model] for model in MODELS}
    lines = [["", *MODELS, "chance"], ["---"] * (len(MODELS) + 2)]

    def add(name: str, cell: Any, chance: str = "", **wanted: str) -> None:
        fitting = [[r for r in own[m] if all(r[k] == v for k, v in wanted.items())] for m in MODELS]
        if all(fitting):
            lines.append([name, *map(cell, fitting), spread(fitting[0][:1], "chance") if chance else ""])

    add("text to video, R@5", spread, "yes", kind="pretrain")
    add("sound to video, R@5", lambda some: spread(some, "second"), "yes", kind="pretrain")
    for task, label in TUNED:
        for init in ("pretrained", "random"):
            name = f"{label} from {'sound' if task == 'audio' else task}, fine-tuned from {init} weights"
            add(name, spread, "yes", kind="finetune", task=task, label=label, init=init)
    for name, column, scale, of in (
        ("parameters, million", "parameters", 1e-6, mean),
        ("GFLOP of a clip, forward and backward", "gflops", 1, mean),
        ("clips a second in pretraining, the fastest run", "samples_per_s", 1, max),  # other jobs only make it slower
        ("memory of pretraining, GB", "memory_gb", 1, mean),
    ):
        add(name, lambda some, c=column, s=scale, of=of: f"{s * of(float(r[c]) for r in some):.3g}", kind="pretrain")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(page: str, rows: Sequence[Row]) -> str:
    """The page with the table between its marks, and where it was measured."""
    last = rows[-1]
    seeds = len({row["seed"] for row in rows})
    steps = ", ".join(sorted({f"{row['kind']} {row['steps']} steps" for row in rows}, reverse=True))
    told = f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {steps}; {last['device']}; {last['versions']}."
    return _MARKS.sub(lambda match: f"{match.group(1)}\n{table(rows)}\n\n{told}\n<!-- end -->", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 with a message for what the user can mend."""
    parser = argparse.ArgumentParser("python -m train.study.compare", description=__doc__)
    add = parser.add_argument
    add("--seeds", default="0,1,2", help="default: %(default)s")
    add("--steps", type=int, help="of each command (default: the recipes')")
    add("--out", type=Path, default=OUT, help="folder of the runs (default: %(default)s)")
    add("--results", type=Path, default=RESULTS, metavar="FILE.csv")
    add("--list", action="store_true", help="only print the commands")
    add("--page", action="store_true", help="only write the table of docs/compare.md")
    options = parser.parse_args(arguments)
    found = comparison(options.out, [int(seed) for seed in options.seeds.split(",")], options.steps)
    if options.list:
        print("\n".join(experiment.line for experiment in found))
        return 0
    try:
        if not options.page:
            _run(found, options.results)
        if not (rows := results.read(options.results, FIELDS)):
            raise StudyError(f"{options.results}: holds no row")
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(PAGE)
    return 0


def _run(found: Sequence[Experiment], path: Path) -> None:
    """Runs what has no row yet. Raises ProcessFailed: a command ended badly. StudyError: its result cannot be read."""
    build(SAMPLE, seed=0, say=print)
    run_missing(found, Table(path, FIELDS, resume=True), origin, row_of)


if __name__ == "__main__":
    raise SystemExit(main())
