"""The process that measures one piece of the jobs: ``python -m bench.jobs.worker JSON``.

It writes {"begin": row} and {"done": row}, one a line, to its standard output; what libraries print goes to the
standard error output.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import torch

from bench.jobs.embed import embed
from bench.jobs.loader import loader
from bench.jobs.loss_memory import loss_memory
from bench.jobs.options import GIB, Options
from bench.jobs.pretrain import pretrain
from bench.jobs.rows import Report, Row

WORK: dict[str, Callable[[Options, Report], None]] = {"loader": loader, "embed": embed, "loss_memory": loss_memory}


class Lines:
    """Reports as lines of JSON."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write

    def begin(self, about: Row) -> None:
        self._write(json.dumps({"begin": about}) + "\n")

    def done(self, row: Row) -> None:
        self._write(json.dumps({"done": row}) + "\n")


def request(options: Options, job: str, model: str | None) -> str:
    """What a worker is told: its job, and of pretrain the preset."""
    return json.dumps({"options": asdict(options), "job": job, "model": model})


def options_of(values: dict[str, Any]) -> Options:
    """The options again from their JSON, where tuples are lists."""
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Options(**{field.name: (values | lists)[field.name] for field in fields(Options)})


def work(options: Options, job: str, model: str | None, report: Report) -> None:
    """Does one piece in this process."""
    if job == "pretrain":
        sweep = next(sweep for sweep in options.sweeps() if sweep.model == model)
        pretrain(options, sweep, report)
    else:
        WORK[job](options, report)


def limit_memory(gib: float) -> None:
    """Allocations beyond this fail with an error, before the system runs short and ends other processes."""
    size = int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    asked = json.loads(sys.argv[1])
    options = options_of(asked["options"])
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
        if options.memory_gib is not None:  # on a GPU, CUDA maps far more than it uses
            limit_memory(options.memory_gib)
    work(options, asked["job"], asked["model"], Lines(channel.write))


if __name__ == "__main__":
    main()
