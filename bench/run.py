"""Measures this project beside what a user would pick instead, and appends each figure to the results file.

``python -m bench.run [--only ops|steps|jobs] [--case PATTERN] [--provider PATTERN ...] [--results FILE.csv]``
``python -m bench.run --base REF`` measures this tree and another commit side by side; exit status 1: slower, 2: wrong
results or a bad request. ``--case`` is what the column ``command`` of a row names: op/case/dtype/pDROPOUT, a pattern as
of a shell, from its beginning.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from bench import store
from bench.measure.timing import DeviceLost
from bench.shapes import OPS, SIZES
from bench.suite.catalogue import SUITES, Wish, plan, subjects
from bench.suite.prepared import BOTH, FORWARD, STEP
from bench.suite.ratios import least_rounds
from bench.suite.session import Budget, Choice, Session
from bench.suite.sink import Sink, roofs
from vatt.config import nearest
from vatt.presets import PRESETS

SECONDS = {"tiny": 0.0, "cpu": 1.5, "gpu": 0.6}  # for the calls of one mode of one provider


def parse(arguments: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.run", description=__doc__, formatter_class=_Raw)
    parser.add_argument("--only", choices=SUITES, help="one suite; default: ops and steps")
    parser.add_argument("--op", nargs="+", choices=OPS, help="of the suite ops; default: all")
    parser.add_argument("--step", nargs="+", metavar="MODEL:BATCH", help="steps of these, such as vatt-base:2")
    parser.add_argument("--case", default="*", metavar="PATTERN", help="op/case/dtype/pDROPOUT; default: all")
    parser.add_argument("--provider", nargs="+", default=["*"], metavar="PATTERN", help="default: all")
    parser.add_argument("--mode", nargs="+", choices=(FORWARD, BOTH, STEP), default=[FORWARD, BOTH, STEP])
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    parser.add_argument("--size", choices=tuple(SIZES), help="shapes; default: those of the device")
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU; default: the cores of this process")
    parser.add_argument("--seconds", type=float, help=f"a mode of a provider; default: {SECONDS}")
    parser.add_argument("--minutes", type=float, help="begin nothing new after this time")
    parser.add_argument("--results", type=Path, metavar="FILE.csv", help="append the rows; default: print only")
    parser.add_argument("--commit", help="of this tree, where it is no clone and git cannot tell")
    parser.add_argument("--resume", action="store_true", help="leave out what --results has of this commit and device")
    parser.add_argument("--list", action="store_true", help="print the names of cases and providers, measure nothing")
    parser.add_argument("--base", metavar="REF", help="a commit to compare this tree with")
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="slower by this share fails (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of a comparison (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    cuda = torch.cuda.is_available()
    options.steps = None if options.step is None else [_step(text, parser) for text in options.step]
    options.device = options.device or ("cuda" if cuda else "cpu")
    if options.device == "cuda" and not cuda:
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    options.size = options.size or ("gpu" if options.device == "cuda" else "cpu")
    if options.resume and options.results is None:
        parser.error("--resume: name the file with --results")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads: {options.threads} is not a number of threads")
    if options.rounds < least_rounds():
        parser.error(f"--rounds: {options.rounds} rounds give no confidence interval; at least {least_rounds()}")
    if not 0 < options.threshold < 10:
        parser.error(f"--threshold: {options.threshold:g} is not a share above 0, such as 0.05")
    return options


def _step(text: str, parser: argparse.ArgumentParser) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if name not in PRESETS:
        parser.error(f"--step {text}: unknown model {name!r}; {nearest(name, PRESETS)}")
    if not batch.isdecimal() or int(batch) < 1:
        parser.error(f"--step {text}: write MODEL:BATCH, such as {name}:8")
    return name, int(batch)


def wish(options: argparse.Namespace) -> Wish:
    """The part of the options that says what exists to be measured."""
    only = "steps" if options.steps else options.only
    only = "ops" if options.op and only is None else only
    return Wish(options.size, tuple(options.op or OPS), only, options.steps)


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


def main(arguments: Iterable[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads or store.cores())
    if options.only == "jobs":
        given = ["--list"] * options.list + ["--resume"] * options.resume
        given += [f"--{name}" for name in ("base", "minutes", "commit") if getattr(options, name) is not None]
        if given:
            print(f"bench.run: --only jobs does not take {', '.join(given)}; see python -m bench.jobs", file=sys.stderr)
            return 2
        from bench.jobs.run import main as jobs

        return jobs([*_shared(options)])
    if options.base:
        from bench.suite.compare import main as compare

        return compare(options)
    try:
        return _measure(options, device)
    except store.StoreError as error:
        print(f"bench.run: --results: {error}", file=sys.stderr)
        return 2


def _shared(options: argparse.Namespace) -> list[str]:
    found = ["--device", options.device, "--size", options.size]
    for name in ("results", "threads", "seconds"):
        if getattr(options, name) is not None:
            found += [f"--{name}", str(getattr(options, name))]
    return found


def _measure(options: argparse.Namespace, device: torch.device) -> int:
    choice = Choice(options.case, tuple(options.provider), tuple(options.mode))
    kernels = device.type == "cuda"
    todo = [subject for subject in subjects(wish(options), device, kernels) if choice.subject(subject)]
    if not todo:
        print(f"bench.run: --case {options.case!r} matches nothing; --list prints the names", file=sys.stderr)
        return 2
    if options.list:
        for subject in todo:
            print(f"{subject.name}: {', '.join(filter(choice.provider, subject.providers))}")
        return 0
    sink = Sink(options.results, device, options.resume, options.commit)
    print(f"{sink.origin['device']}, torch {sink.origin['torch']}, commit {sink.origin['commit']}", flush=True)
    until = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    budget = Budget(SECONDS[options.size] if options.seconds is None else options.seconds, until)
    session = Session(sink, device, roofs(sink, device, options.size), budget, choice, sink.known)
    try:
        for subject, heavy in plan(todo):
            session.run(subject, heavy)
    except DeviceLost as failure:
        print(f"bench.run: the device no longer answers ({failure}); --resume goes on with the rest", file=sys.stderr)
        return 3
    for words in session.left_out:
        print(f"left out, no time: {words}")
    timed = [row for row in sink.rows if row["suite"] != "roof"]
    if not timed and not session.left_out:
        print("nothing new to measure: no provider matches, or --resume found all rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
