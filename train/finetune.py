"""Fine-tunes a pretrained backbone: ``deepspeed train/finetune.py`` (or torchrun, or plain python for one process)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

from train.core import supervisor  # noqa: E402

if __name__ == "__main__":
    supervisor.begin()  # before anything large is imported

import torch  # noqa: E402

from train.config.finetuning import FinetuneConfig  # noqa: E402
from train.core.command import Job, run_job, run_script  # noqa: E402
from train.core.finish import train_to_end  # noqa: E402
from train.core.ranks import RankContext  # noqa: E402
from train.finetuning.build import build  # noqa: E402
from train.finetuning.cli import parse  # noqa: E402
from vatt.weights.folder import export_model  # noqa: E402
from vatt.weights.tensors import Tensors  # noqa: E402


def run(job: Job[FinetuneConfig], context: RankContext) -> int:
    """Builds the run that a command line asks for, trains it and leaves its classifier."""
    trainer = build(job, context)

    def export(weights: Tensors) -> None:
        export_model(trainer.folder.model, job.config.model, weights)

    return train_to_end(trainer, export, "model.")


def main(arguments: list[str]) -> int:
    """The exit status of a command line."""
    return run_job(arguments, partial(parse, on_gpu=torch.cuda.is_available()), run)


if __name__ == "__main__":
    run_script(main)
