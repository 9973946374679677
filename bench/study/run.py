"""What pretraining is good for, shown on the sample: ``python -m bench study``.

Runs the commands of the study one after the other, adds a row a command to the results file, and writes the tables and
the picture of docs/results.md. What was done before is not done again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import ROOT, store
from bench.store import Row
from bench.study.experiments import SAMPLE, Experiment, figures, study
from bench.study.tables import TABLES, draw
from vatt.sample import build, build_pictures

PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "results.svg"
RESULTS = ROOT / "bench" / "results" / "downstream.csv"
FIELDS = (
    *("time", "commit", "dirty", "device", "python", "torch", "deepspeed"),
    *("kind", "task", "label", "init", "dropped", "seed"),
    *("metric", "value", "second", "chance", "n", "steps", "samples_per_s", "command"),
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m bench study", description=__doc__)
    add = parser.add_argument
    add("--seeds", default="0,1,2", help="default: %(default)s")
    add("--out", type=Path, default=Path("runs/downstream"), help="folder of the runs (default: %(default)s)")
    add("--results", type=Path, default=RESULTS, metavar="FILE.csv")
    add("--list", action="store_true", help="print the commands alone")
    add("--page", action="store_true", help="write the tables and the picture of docs/results.md alone")
    options = parser.parse_args(argv)
    found = study(options.out, [int(seed) for seed in options.seeds.split(",")])
    if options.list:
        print("\n".join(experiment.line for experiment in found))
        return 0
    if not options.page and not run(found, options.results):
        return 1
    rows = store.read(options.results, FIELDS)
    if not rows:
        print(f"error: {options.results}: holds no row", file=sys.stderr)
        return 1
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    draw(rows, PICTURE)
    print(f"{PAGE}\n{PICTURE}")
    return 0


def run(found: Sequence[Experiment], results: Path) -> bool:
    """Runs what has no row yet. False if a command fails; what it printed is shown."""
    build(SAMPLE, seed=0, say=print)
    build_pictures(SAMPLE)
    store.append(results, [], FIELDS)
    known = {row["command"] for row in store.read(results, FIELDS)}
    for number, experiment in enumerate(found, start=1):
        if experiment.line in known:
            continue
        print(f"{number}/{len(found)} {experiment.line}", flush=True)
        where = origin(results)
        if not experiment.result.is_file():
            if experiment.what["kind"] != "probe":  # the folder of a run that was stopped
                shutil.rmtree(experiment.result.parent, ignore_errors=True)
            done = subprocess.run([sys.executable, *experiment.command], cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                print(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\nerror: the command failed", file=sys.stderr)
                return False
        row = row_of(experiment, where)
        store.append(results, [row], FIELDS)
        print(f"    {row['metric']} {100 * row['value']:.1f}% (chance {100 * row['chance']:.1f}%)", flush=True)
    return True


def origin(results: Path) -> dict[str, Any]:
    """Where a row that is made now comes from. That rows were added to ``results`` does not make the tree dirty."""
    found = store.origin(torch.device("cuda" if torch.cuda.is_available() else "cpu"), aside=results)
    return {name: found[name] for name in FIELDS if name in found} | {"deepspeed": version("deepspeed")}


def row_of(experiment: Experiment, where: dict[str, Any]) -> dict[str, Any]:
    """The row of an experiment that has ended. Raises StudyError if its result cannot be read."""
    return {**where, **experiment.what, **figures(experiment), "command": experiment.line}


def filled(page: str, rows: Sequence[Row]) -> str:
    """The page with each table put between its marks, <!-- table: NAME --> and <!-- end -->."""

    def made(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{TABLES[match.group(2)](rows)}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", made, page, flags=re.S)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
