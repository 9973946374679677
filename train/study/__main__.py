"""What pretraining is good for, shown on the sample: ``python -m train.study``.

Runs the commands of the study one after the other, adds one row per command to the results file, and writes the tables
and the picture of docs/results.md. What was done before on the same sample is not done again; rows of a former sample
(another `vatt.sample.writing.FORMAT`) stay in the file, and are in the tables only as long as there are no newer ones.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from train.study.experiments import SAMPLE, Experiment, StudyError, figures, run_missing, study
from train.study.tables import TABLES, draw
from vatt import results
from vatt.errors import UserError, printable
from vatt.files import TREE
from vatt.results import Row, Table
from vatt.sample import build, build_pictures
from vatt.sample.writing import FORMAT

PAGE = TREE / "docs" / "results.md"
PICTURE = TREE / "docs" / "results.svg"
RESULTS = TREE / "bench" / "results" / "downstream.csv"
OUT = Path(f"runs/study-{FORMAT}")  # a run of a former sample is not taken for one of this
FIELDS = (
    *("time", "commit", "dirty", "sample", "device", "python", "torch", "deepspeed"),
    *("kind", "task", "label", "init", "dropped", "seed"),
    *("metric", "value", "second", "chance", "n", "steps", "samples_per_s", "command"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 with a message for what the user can mend, and if a command of the study fails."""
    parser = argparse.ArgumentParser("python -m train.study", description=__doc__)
    add = parser.add_argument
    add("--seeds", default="0,1,2", help="default: %(default)s")
    add("--out", type=Path, default=OUT, help="folder of the runs (default: %(default)s)")
    add("--results", type=Path, default=RESULTS, metavar="FILE.csv")
    add("--list", action="store_true", help="only print the commands")
    add("--page", action="store_true", help="only write the tables and the picture of docs/results.md")
    options = parser.parse_args(arguments)
    found = study(options.out, [int(seed) for seed in options.seeds.split(",")])
    if options.list:
        print("\n".join(experiment.line for experiment in found))
        return 0
    try:
        if not options.page:
            run(found, options.results)
        if not (rows := results.read(options.results, FIELDS)):
            raise StudyError(f"{options.results}: holds no row")
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    draw(rows, PICTURE)
    print(f"{PAGE}\n{PICTURE}")
    return 0


def run(found: Sequence[Experiment], path: Path) -> None:
    """Runs what has no row yet.

    Raises:
        ProcessFailed: a command ended badly. StudyError: its result cannot be read.
    """
    build(SAMPLE, seed=0, say=print)
    build_pictures(SAMPLE)
    run_missing(found, Table(path, FIELDS, resume=True), origin, row_of, sample=FORMAT)


def origin(path: Path) -> dict[str, Any]:
    """Where a row that is made now comes from. That rows were added to ``path`` does not make the tree dirty."""
    found = results.origin(torch.device("cuda" if torch.cuda.is_available() else "cpu"), aside=path)
    return {name: found[name] for name in FIELDS if name in found} | {"deepspeed": version("deepspeed")}


def row_of(experiment: Experiment, where: dict[str, Any]) -> dict[str, Any]:
    """The row of an experiment that has ended. Raises StudyError if its result cannot be read."""
    return {**where, "sample": FORMAT, **experiment.what, **figures(experiment), "command": experiment.line}


def filled(page: str, rows: Sequence[Row]) -> str:
    """The page with each table put between its marks, <!-- table: NAME --> and <!-- end -->."""

    def made(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{TABLES[match.group(2)](rows)}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", made, page, flags=re.S)


if __name__ == "__main__":
    raise SystemExit(main())
