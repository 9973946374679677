"""The sub-commands ops, steps and compare: this project beside what a user would pick instead, or beside itself.

``--case`` is what the column ``command`` of a row names: op/case/dtype/pDROPOUT, a pattern as of a shell, from its
beginning. Each figure is printed, and with ``--results`` appended to a results file at once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.baselines.official import Official
from bench.cases import OPS, SIZES
from bench.compare import compare, least_rounds
from bench.measure.session import MODES, Session, Writer, matches, plan, select
from bench.measure.timing import DeviceLost, device_and_size
from bench.subjects import subjects
from vatt.config import nearest
from vatt.environment import cores
from vatt.errors import UserError
from vatt.presets import PRESETS

SECONDS = {"tiny": 0.0, "cpu": 1.5, "gpu": 0.6}  # for the calls of one mode of one provider
LOST = 3  # exit status


def _parser(name: str) -> argparse.ArgumentParser:
    description = __doc__ if name != "compare" else sys.modules["bench.compare"].__doc__
    raw = argparse.RawDescriptionHelpFormatter  # keeps the lines of the description
    parser = argparse.ArgumentParser(f"python -m bench {name}", description=description, formatter_class=raw)
    add = parser.add_argument
    if name != "steps":
        add("--op", nargs="+", choices=OPS, help="operations; default: all")
    if name == "steps":
        add("--official", metavar="FOLDER", help="that holds the official code's vatt/: its step too, in a process")
        add("--official-python", metavar="PYTHON", default=sys.executable, help="which imports it (default: this one)")
    if name != "ops":
        add("--step", nargs="+", metavar="MODEL:BATCH", help="steps of these, such as vatt-base:2")
    add("--case", default="*", metavar="PATTERN", help="op/case/dtype/pDROPOUT; default: all")
    add("--provider", nargs="+", default=["*"], metavar="PATTERN", help="default: all; of a comparison: ours")
    add("--mode", nargs="+", choices=MODES, default=list(MODES))
    add("--device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    add("--size", choices=tuple(SIZES), help="of the cases; default: that of the device")
    add("--threads", type=int, help="of PyTorch on a CPU; default: the cores of this process")
    add("--seconds", type=float, help=f"a mode of a provider; default: {SECONDS}")
    add("--results", type=Path, metavar="FILE.csv", help="append the rows; default: print only")
    if name == "compare":
        add("--base", metavar="REF", required=True, help="a commit to compare this tree with")
        add("--only", choices=("ops", "steps"), help="default: both")
        add("--threshold", type=float, default=0.05, help="slower by this share fails (default: %(default)s)")
        add("--rounds", type=int, default=7, help="of both sides (default: %(default)s)")
    else:
        add("--minutes", type=float, help="begin nothing new after this time")
        add("--commit", help="of this tree, where it is no clone and git cannot tell")
        add("--resume", action="store_true", help="leave out what --results has of this commit and device")
        add("--list", action="store_true", help="print the names of cases and providers, measure nothing")
    return parser


def parse(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Options with the defaults of the device; ``wanted``: those of `bench.subjects.subjects` that JSON can hold."""
    parser = _parser(name)
    options = parser.parse_args(arguments)
    options.device, options.size = device_and_size(options.device, options.size)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads: {options.threads} is not a number of threads")
    options.threads = options.threads or cores()
    options.seconds = SECONDS[options.size] if options.seconds is None else options.seconds
    for option in ("seconds", "minutes"):
        if not (value := getattr(options, option, None) or 0) >= 0:
            parser.error(f"--{option}: {value:g} is not a time")
    if getattr(options, "resume", False) and options.results is None:
        parser.error("--resume: name the file with --results")
    if name == "compare":
        if options.rounds < least_rounds():
            parser.error(f"--rounds: {options.rounds} give no confidence interval; at least {least_rounds()}")
        if not 0 < options.threshold < 10:
            parser.error(f"--threshold: {options.threshold:g} is not a share above 0, such as 0.05")
    ops, steps = getattr(options, "op", None), getattr(options, "step", None)
    only = options.only if name == "compare" else name
    only = "steps" if steps else only or ("ops" if ops else None)
    options.wanted = dict(size=options.size, ops=() if only == "steps" else ops or OPS)
    options.wanted["steps"] = () if only == "ops" else steps and [_step(text, parser) for text in steps]
    if (folder := getattr(options, "official", None)) is not None:
        if not (Path(folder) / "vatt").is_dir():
            parser.error(f"--official {folder}: there is no folder vatt in it")
        if shutil.which(options.official_python) is None:
            parser.error(f"--official-python {options.official_python}: not found, or not a program")
        options.wanted["official"] = Official(folder, options.official_python)
    return options


def _step(text: str, parser: argparse.ArgumentParser) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if name not in PRESETS:
        parser.error(f"--step {text}: unknown model {name!r}; {nearest(name, PRESETS)}")
    if not batch.isdecimal() or int(batch) < 1:
        parser.error(f"--step {text}: write MODEL:BATCH, such as {name}:8")
    return name, int(batch)


def main(arguments: Sequence[str]) -> int:
    """The exit status of a sub-command, whose name is the first argument. Raises UserError."""
    name, *rest = arguments
    options = parse(name, rest)
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    if name == "compare":
        return compare(options)
    todo = select(subjects(device, **options.wanted), options.case)
    if not todo:
        raise UserError(f"--case {options.case!r} matches nothing; --list prints the names")
    if options.list:
        for subject in todo:
            print(f"{subject.name}: {', '.join(name for name in subject.providers if matches(name, options.provider))}")
        return 0
    writer = Writer(options.results, device, options.resume, options.commit)
    until = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    which = dict(providers=options.provider, modes=options.mode, known=writer.known)
    session = Session(writer, device, writer.peaks(options.size), options.seconds, until, **which)
    try:
        for subject, heavy in plan(todo):
            session.run(subject, heavy)
    except DeviceLost as failure:
        print(f"bench {name}: the device no longer answers ({failure}); --resume goes on", file=sys.stderr)
        return LOST
    for words in session.left_out:
        print(f"left out, no time: {words}")
    if all(row["suite"] == "roof" for row in writer.rows) and not session.left_out:
        print("nothing new to measure: no provider or mode matches, or --resume found all rows")
    return 0
