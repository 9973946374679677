"""How far a long command is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between two lines if stderr is no terminal, as for a job in a queue


@contextmanager
def progress(unit: str) -> Iterator[Callable[..., None]]:
    """Yields ``tell(done, total, faults=0)``, which draws a bar on a terminal, else writes a line now and then.

    Both go to stderr. The rate does not count the first call, whose items also waited for the workers to start, or were
    done by an earlier run.
    """
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(unit, total=None)
        (task,) = bar.tasks
        told = time.monotonic()

        def tell(done: int, total: int, faults: int = 0) -> None:
            nonlocal told
            bar.update(task.id, completed=done, total=total)
            rate = "" if task.speed is None else f", {task.speed:.1f} a second"
            words = unit + rate + (f", {faults} faults" if faults else "")
            bar.update(task.id, description=words)
            if not console.is_terminal and time.monotonic() - told >= LINE_EVERY:
                told = time.monotonic()
                console.print(f"{done} of {total} {words}", soft_wrap=True)

        yield tell
