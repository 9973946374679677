"""All jobs, each piece in a process of its own, so that an error or a lack of memory is a row and frees everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from bench.jobs.options import Options
from bench.jobs.rows import Row, case
from bench.measure.process import running, worker


def jobs(options: Options) -> Iterator[Row]:
    """Measures, and yields each row (columns of `bench.store` without those of ORIGIN) as soon as it is known.

    A case that fails is a row whose ``note`` says why; nothing is raised for it. A ``close`` ends what is running.
    """
    for job, model in pieces(options):
        if job == "train":
            from bench.jobs.train import train

            yield from train(options)
        else:
            yield from in_process(options, job, model)


def pieces(options: Options) -> list[tuple[str, str | None]]:
    """(job, preset) of each process; the preset where a job has one process for each."""
    found: list[tuple[str, str | None]] = []
    for job in options.only:
        found += [(job, sweep.model) for sweep in options.sweeps()] if job == "pretrain" else [(job, None)]
    return found


def command(options: Options, job: str, model: str | None) -> list[str]:
    """The process of a piece."""
    return worker("bench.jobs.worker:work", {"options": asdict(options), "job": job, "model": model})


def in_process(options: Options, job: str, model: str | None) -> Iterator[Row]:
    """The rows of one piece, and one for the case that ended its process, if one did."""
    select = [] if model is None else ["--model", model]
    begun: Row | None = case(
        options, job, model or "all", mode="start", provider=f"ours {options.backend}", select=select
    )
    with running(command(options, job, model), limit=options.end) as run:
        for message in run.messages():
            if "done" in message:
                begun = None
                yield message["done"]
            else:
                begun = message["begin"]
        why = run.why()
    if why is not None:
        about = begun or case(options, job, model or "all", mode="end", provider="ours", select=select)
        yield {**about, "note": why}
