"""Evaluates a model: ``python train/evaluate.py --task TASK``; also under ``deepspeed``. Tasks: train/evaluation/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

from train.core import supervisor  # noqa: E402

if __name__ == "__main__":
    supervisor.begin()  # before anything large is imported

from train.core.command import run_job, run_script  # noqa: E402
from train.core.ranks import RankContext  # noqa: E402
from train.evaluation.cli import TASKS, parse  # noqa: E402
from train.evaluation.task import prepare_out, use_sample  # noqa: E402


def run(options: argparse.Namespace, context: RankContext) -> int:
    """Runs the task that a command line asks for; 1 if too many of its clips could not be read."""
    prepare_out(options, context)
    if options.data is None:
        use_sample(options, context)
    return TASKS[options.task].run(options, context)


def main(arguments: list[str]) -> int:
    """The exit status of a command line."""
    return run_job(arguments, parse, run)


if __name__ == "__main__":
    run_script(main)
