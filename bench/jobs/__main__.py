"""Measures whole jobs and appends each row to a results file: ``python -m bench.jobs [--only JOB ...]``.

pretrain     training steps on random inputs: every preset, rates of DropToken, batches doubling until memory ends
train        ``deepspeed train/pretrain.py`` on the built-in sample, as it records itself
loader       clips a second of reading, and the share of time that a model's steps wait for it
embed        clips a second from files to embeddings
loss_memory  the contrastive loss against the batch
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import torch

from bench import store
from bench.jobs.options import JOBS, SIZES, JobError, Options, available_gib
from bench.jobs.rows import Row
from bench.jobs.run import jobs


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m bench.jobs", description=__doc__, formatter_class=_Raw)
    add = made.add_argument
    add("--only", nargs="+", choices=JOBS, default=list(JOBS), help="default: all")
    add("--model", nargs="+", metavar="NAME", help="presets; default: those of the size")
    add("--batch", nargs="+", type=int, metavar="N", help="clips a step; default: those of the size")
    add("--drop", nargs="+", type=int, metavar="PERCENT", help="of patches, by DropToken; default: 50 0 25 75")
    add("--backend", choices=("auto", "triton", "torch"), default="auto", help="of our operations")
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--size", choices=tuple(SIZES), help="how much; default: that of the device")
    add("--seconds", type=float, metavar="S", help="for the steps of one case; default: that of the size")
    add("--limit", type=float, metavar="S", help="for one process, which is ended then; default: that of the size")
    add("--threads", type=int, help="of PyTorch on a CPU; default: the cores of this process")
    add("--memory-gib", type=float, help="a process may hold on a CPU; default: 60%% of what is available")
    add("--results", type=Path, metavar="FILE.csv", help="append the rows; default: print only")
    return made


def parse(arguments: Iterable[str] | None) -> tuple[Options, Path | None]:
    """Options and results file. A bad value ends the program with a message."""
    made = parser()
    given = made.parse_args(None if arguments is None else list(arguments))
    cuda = torch.cuda.is_available()
    device = given.device or ("cuda" if cuda else "cpu")
    if device == "cuda" and not cuda:
        made.error("--device cuda: PyTorch finds no CUDA device here")
    memory = available_gib() if given.memory_gib is None and device == "cpu" else given.memory_gib
    lists = {name: tuple(value) if (value := getattr(given, name)) else None for name in ("model", "batch", "drop")}
    try:
        options = Options(
            device=device,
            size=given.size or ("gpu" if device == "cuda" else "cpu"),
            only=tuple(given.only),
            models=lists["model"],
            batches=lists["batch"],
            drops=lists["drop"],
            backend=given.backend,
            seconds=given.seconds,
            limit=given.limit,
            threads=given.threads,
            memory_gib=memory,
        )
    except JobError as error:
        made.error(str(error))
    return options, given.results


def line(row: Row) -> str:
    """A row as one short line of text."""
    head = f"{row['op']} {row['case']} {row['mode']} {row['provider']}"
    if row.get("ms") is None:
        return f"{head}: {row['note']}"
    parts = [f"{row['ms']:.4g} ms ({row['ms_p20']:.4g} to {row['ms_p80']:.4g})", f"{row['rate']:.4g} {row['unit']}"]
    for name, words in (("tflops", "{:.3g} TFLOP/s"), ("mfu", "MFU {:.1%}"), ("wait_share", "waiting {:.0%}")):
        if row.get(name) is not None:
            parts.append(words.format(row[name]))
    if row.get("peak_mib") is not None:
        parts.append(f"{row['peak_mib']:.0f} MiB")
    return f"{head}: {', '.join(parts)}"


def main(arguments: Iterable[str] | None = None) -> int:
    """0; 1 if nothing could be measured; 2 for a results file that is none."""
    options, path = parse(arguments)
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
    origin = store.origin(torch.device(options.device))
    print(f"{origin['device']}, torch {origin['torch']}, commit {origin['commit']}", flush=True)
    measured = 0
    try:
        if path is not None:
            store.append(path, [])  # a file that is none is told now, not after the first hour
        with closing(jobs(options)) as rows:  # type: ignore[type-var]
            for row in rows:
                measured += row.get("ms") is not None
                print(line(row), flush=True)
                if path is not None:
                    store.append(path, [{**origin, "time": store.now(), **row}])
    except store.StoreError as error:
        print(f"bench.jobs: --results: {error}", file=sys.stderr)
        return 2
    return 0 if measured else 1


if __name__ == "__main__":
    raise SystemExit(main())
