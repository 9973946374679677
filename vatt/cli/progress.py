"""How far a long command is, what it waits for, and what it found wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vatt import signals
from vatt.errors import printable

SHOWN = 5  # faults named on the terminal
LINE_EVERY = 30.0  # seconds between two lines if stderr is no terminal, as for a job in a queue


@contextmanager
def progress(unit: str) -> Iterator[Callable[..., None]]:
    """Yields ``tell(done, total, faults=0, what=unit)``, which draws a bar on a terminal, else writes a line now and
    then. ``what`` is counted; when it changes, so does the bar.

    Both go to stderr. The rate does not count the first call, whose items also waited for the workers to start, or were
    done by an earlier run.
    """
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(unit, total=None)
        (task,) = bar.tasks
        printed, counted = time.monotonic(), unit

        def tell(done: int, total: int, faults: int = 0, what: str = unit) -> None:
            nonlocal printed, counted
            if what != counted:
                bar.reset(task.id)
                counted = what
            bar.update(task.id, completed=done, total=total)
            rate = "" if task.speed is None else f", {task.speed:.1f} a second"
            words = what + rate + (f", {faults} faults" if faults else "")
            bar.update(task.id, description=words)
            if not console.is_terminal and time.monotonic() - printed >= LINE_EVERY:
                printed = time.monotonic()
                left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
                console.print(f"{done} of {total} {words}{left}", soft_wrap=True)

        yield tell


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Inside, a terminal shows what takes its time, on stderr; nothing stays of it. A signal ends the command at once,
    as there is nothing to finish yet."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    if clear:
        print(what, "...", end="", file=sys.stderr, flush=True)
    try:
        with signals.at_once(clear):
            yield
    finally:
        if clear:
            print(clear, end="", file=sys.stderr, flush=True)


def listed(faults: Sequence[dict[str, Any]], what: str = "faults") -> str:
    """How many faults, and a line for each of the first ones, from records {file, field, reason}."""
    if not faults:
        return "no fault"
    text = f"{len(faults)} {what}" + "".join(
        "\n  " + printable(f"{record['file']}: {record['field']}: {record['reason']}") for record in faults[:SHOWN]
    )
    return text + (f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")
