"""``vatt mteb --model DIR``: a model on the public boards of MTEB, or on tasks made of a manifest."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from vatt.cli.progress import waiting
from vatt.errors import printable
from vatt.precision import PRECISIONS, type_of

_SHOWN = 5  # faults that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="folder of a model or of a run, or OWNER/NAME of the hub")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tasks", nargs="+", metavar="NAME", help="tasks of mteb (those of the paper's data sets)")
    what.add_argument("--benchmark", metavar="NAME", help="all tasks of a benchmark of mteb, such as 'MVEB(v1)'")
    what.add_argument("--data", metavar="MANIFEST", help="tasks of this data set in place of public ones")
    add("--split", default="val", metavar="NAME", help="with --data: clips of this split (%(default)s)")
    add("--name", metavar="OWNER/NAME", help="of the model on the board (local/ and the name of its folder)")
    add("--out", type=Path, default=Path("mteb"), metavar="DIR", help="folder of the results (%(default)s)")
    add("--windows", type=int, default=4, metavar="N", help="windows of a file that are averaged (4)")
    add("--batch-size", type=int, default=8, metavar="N", help="items of a batch (8)")
    add("--workers", type=int, default=2, metavar="N", help="decoding processes (2)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (cuda, or cpu without one)")
    add("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: bf16 on a GPU, else fp32)")


def run(options: argparse.Namespace) -> int:
    """Evaluates and prints the main score of each task; 1 if one failed. Raises UserError."""
    with waiting("starting PyTorch"):
        from vatt.environment import default_device
        from vatt.inference.mteb import MTEBError, MTEBModel, check_installed, media_as_files, tasks_of

    check_installed()
    options.device = options.device or default_device()
    if options.name is not None and options.name.count("/") != 1:
        raise MTEBError(f"--name {options.name}: is not of the form OWNER/NAME")
    if options.windows < 1 or options.batch_size < 1 or options.workers < 0:
        raise MTEBError("--windows, --batch-size: must be 1 or more; --workers: 0 or more")
    wrapped = {"windows": options.windows, "workers": options.workers}
    model = MTEBModel.from_pretrained(options.model, options.name, **wrapped)
    model.model.to(options.device, type_of(options.precision, options.device))
    import datasets
    import mteb
    from mteb.cache import ResultCache

    watched = sys.stderr.isatty()
    if not watched:
        datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)  # each task of a beta says so twice; it is told once, below
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        tasks = tasks_of(options.data, options.split) if options.data else _public(options)
    if beta := [task.metadata.name for task in tasks if task.metadata.is_beta]:
        print(f"note: mteb calls these a beta, so their data and scores may change: {', '.join(beta)}", file=sys.stderr)
    failed = 0
    for task in tasks:
        name = task.metadata.name
        try:
            with media_as_files():
                done = mteb.evaluate(
                    model,  # type: ignore[arg-type]
                    task,
                    cache=ResultCache(options.out),
                    # Results of a manifest are of today's files; those of a public task stay as long as its data do.
                    overwrite_strategy="always" if options.data else "only-missing",
                    encode_kwargs={"batch_size": options.batch_size, "show_progress_bar": watched},
                    show_progress_bar=watched,
                )
        except Exception as error:  # of one task: data that cannot be fetched, a space that the model lacks
            failed += 1
            reason = f"{name}: {type(error).__name__}: {error}"
            print(f"error: {printable(reason)}", file=sys.stderr)
            continue
        for fault in done.exceptions or ():  # data that are not public, which mteb does not raise
            failed += 1
            reason = f"{name}: {fault.exception}"
            print(f"error: {printable(reason)}", file=sys.stderr)
        for result in done.task_results:
            print(f"{name:<36} {task.metadata.main_score:<12} {result.get_score():.4f}", flush=True)
    for line in model.faults[:_SHOWN]:
        print(f"warning: {printable(line)}", file=sys.stderr)
    if len(model.faults) > _SHOWN:
        print(len(model.faults) - _SHOWN, "more could not be embedded", file=sys.stderr)
    print(f"results of {printable(model.name)}, revision {model.revision}: {printable(options.out)}")
    return int(failed > 0)


def _public(options: argparse.Namespace) -> list[Any]:
    import mteb

    from vatt.inference.mteb import BOARDS, MTEBError

    if options.benchmark:
        try:
            return list(mteb.get_benchmark(options.benchmark).tasks)
        except KeyError as error:
            raise MTEBError(f"--benchmark: {str(error).strip(chr(34))}") from error
    found = []
    for name in options.tasks or BOARDS:
        try:
            found.append(mteb.get_task(name))
        except KeyError as error:
            raise MTEBError(f"--tasks: {str(error).strip(chr(34))}") from error
    return found
