"""Pretrains VATT: ``deepspeed train/pretrain.py`` (or torchrun, or plain python for one process)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

from train.core import supervisor  # noqa: E402

if __name__ == "__main__":
    supervisor.begin()  # before anything large is imported

import torch  # noqa: E402

from train.config.pretraining import PretrainConfig  # noqa: E402
from train.core.command import Job, run_job, run_script  # noqa: E402
from train.core.finish import train_to_end  # noqa: E402
from train.core.ranks import RankContext  # noqa: E402
from train.pretraining.build import build  # noqa: E402
from train.pretraining.cli import parse  # noqa: E402
from train.report.page import write_report  # noqa: E402
from train.report.plots import write_plots  # noqa: E402
from train.report.records import read_metrics  # noqa: E402
from vatt.data.tokenizer import FILE as TOKENIZER  # noqa: E402
from vatt.weights.folder import export_model  # noqa: E402
from vatt.weights.tensors import Tensors  # noqa: E402


def run(job: Job[PretrainConfig], context: RankContext) -> int:
    """Builds the run that a command line asks for, trains it and leaves its model and its report."""
    trainer = build(job, context)
    folder = trainer.folder

    def export(weights: Tensors) -> None:
        export_model(folder.model, job.config.model, weights, folder.path / TOKENIZER)

    def report() -> None:
        write_plots(folder, read_metrics(folder.metrics))
        trainer.reporter.say(f"report: {write_report(folder.path)}")

    return train_to_end(trainer, export, "vatt.", report)


def main(arguments: list[str]) -> int:
    """The exit status of a command line."""
    return run_job(arguments, partial(parse, on_gpu=torch.cuda.is_available()), run)


if __name__ == "__main__":
    run_script(main)
