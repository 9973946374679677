"""Measures whole jobs and appends each row to a results file: ``python -m bench jobs [--only JOB ...]``."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace

import torch

from bench.jobs.case import Row, case
from bench.jobs.decoding import decode, table
from bench.jobs.options import GIB, Options, parse
from bench.jobs.pretraining import loss_memory, pretrain, train
from bench.jobs.reading import embed, loader
from bench.measure.session import Writer
from vatt.process import Message, Send, running, worker

WORK = {work.__name__: work for work in (pretrain, train, loader, embed, loss_memory, decode)}


def main(argv: Sequence[str]) -> int:
    """0; 1 if nothing could be measured. Raises ResultsError for a results file that is none."""
    options, path = parse(argv, __doc__)
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
    writer = Writer(path, torch.device(options.device))
    with closing(jobs(options)) as rows:  # type: ignore[type-var]
        for row in rows:
            writer(row)
    if "decode" in options.only:
        print(table(writer.rows))
    return 0 if any("ms" in row for row in writer.rows) else 1


def jobs(options: Options) -> Iterator[Row]:
    """Measures, and yields each row (columns of `bench.store` without those of ORIGIN) as soon as it is known.

    Each job has a process of its own, pretrain one for each preset, so that an error or a lack of memory is a row and
    frees everything. A case that fails is a row whose ``note`` says why; nothing is raised for it. A ``close`` ends
    what is running.
    """
    for job in options.only:
        if job == "train":  # the command has a process of its own
            yield from (message["done"] for message in train(options) if "done" in message)
        elif job == "pretrain":
            for sweep in options.sweeps():
                yield from in_process(replace(options, models=(sweep.model,)), job)
        else:
            yield from in_process(options, job)


def in_process(options: Options, job: str) -> Iterator[Row]:
    """The rows of one job, and one for the case that ended its process, if one did."""
    (model,) = options.models if options.models and job == "pretrain" else ("all",)
    select = {} if model == "all" else {"model": model}
    begun: Row | None = case(options, job, model, mode="start", provider=f"ours {options.backend}", select=select)
    command = worker("bench.jobs.run:work", {"options": asdict(options), "job": job})
    with running(command, limit=options.end) as process:
        for message in process.messages():
            begun = message.get("begin")
            if "done" in message:
                yield message["done"]
        why = process.why()
    if why is not None:
        yield {**(begun or case(options, job, model, mode="end", provider="ours", select=select)), "note": why}


def work(asked: Message, send: Send, requests: Iterator[Message]) -> None:
    """Does one job in this process (`vatt.process.worker`)."""
    options = Options.of(asked["options"])
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
        if options.memory_gib is not None:  # on a GPU, CUDA maps far more than it uses
            # Allocations beyond this fail with an error, before the system runs short and ends other processes.
            resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory_gib * GIB),) * 2)
    for message in WORK[asked["job"]](options):
        send(message)
