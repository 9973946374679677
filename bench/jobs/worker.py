"""What a process of the jobs does (`bench.measure.process.worker`): one piece, reported as {"begin": row} and
{"done": row}."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch

from bench.jobs.embed import embed
from bench.jobs.loader import loader
from bench.jobs.loss_memory import loss_memory
from bench.jobs.options import GIB, Options
from bench.jobs.pretrain import pretrain
from bench.jobs.rows import Report, Row
from bench.measure.process import Message, Send

WORK: dict[str, Callable[[Options, Report], None]] = {"loader": loader, "embed": embed, "loss_memory": loss_memory}


class Messages:
    """Reports as messages."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def begin(self, about: Row) -> None:
        self._send({"begin": about})

    def done(self, row: Row) -> None:
        self._send({"done": row})


def options_of(values: dict[str, Any]) -> Options:
    """The options again from their JSON, where tuples are lists."""
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Options(**{field.name: (values | lists)[field.name] for field in fields(Options)})


def work(asked: Message, send: Send, requests: Iterator[Message]) -> None:
    """Does one piece in this process."""
    options, report = options_of(asked["options"]), Messages(send)
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
        if options.memory_gib is not None:  # on a GPU, CUDA maps far more than it uses
            limit_memory(options.memory_gib)
    if asked["job"] == "pretrain":
        sweep = next(sweep for sweep in options.sweeps() if sweep.model == asked["model"])
        pretrain(options, sweep, report)
    else:
        WORK[asked["job"]](options, report)


def limit_memory(gib: float) -> None:
    """Allocations beyond this fail with an error, before the system runs short and ends other processes."""
    size = int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
