"""Batches that are read one task at a time: what a task is, which tasks make a batch, and reading them in this process.

Tasks are numbered from 0, and a fixed number of them makes a batch. `vatt.data.workers` reads them in processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vatt.data.samples import Layout
from vatt.data.slots import batch_bytes, carve

Rows = dict[str, Tensor]
Filled = tuple[Rows, list[Any]]  # a batch, and what reading each of its tasks returned
_ALIVE = 120.0  # seconds without an answer after which a process counts as hung, at least


class Work(Protocol):
    """What is read."""

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> Any:
        """Reads a task into its rows.

        Args:
            rows: tensors with the rows of the task as first axis.
            lost: attempts at this task that have ended the process, with the way how.
            begin: to be called with the number of each attempt when it begins.

        Returns:
            What there is to tell besides, small; mostly None.
        """
        ...


class Interrupted(Exception):
    """Waiting for a batch was given up, because the one who waits was told to stop."""


class WorkerFault(RuntimeError):
    """A fault of this project in a reading process, with its traceback."""


@dataclass(frozen=True)
class Plan:
    """The batches of a pool.

    Attributes:
        layout: of a row.
        rows: of a task.
        tasks: of a batch; the last one may have fewer.
        total: tasks in all; None: without end.
    """

    layout: Layout
    rows: int
    tasks: int
    total: int | None = None

    def tasks_of(self, batch: int) -> range:
        """The tasks of a batch; none after the last."""
        end = (batch + 1) * self.tasks
        return range(batch * self.tasks, end if self.total is None else min(end, self.total))

    @property
    def batch_bytes(self) -> int:
        """What a batch takes of memory."""
        return batch_bytes(self.layout, self.rows * self.tasks)

    def part(self, batch: Rows, task: int) -> Rows:
        """The rows of a task in its batch."""
        at = task % self.tasks * self.rows
        return {name: x[at : at + self.rows] for name, x in batch.items()}


def patience(decode_timeout: float, windows: int) -> float:
    """Seconds after which a process that reads so many windows counts as hung: longer than its own limits allow, which
    are three of each: to wait for another process that fetches the same piece, to fetch it, and to decode."""
    return max(_ALIVE, 4 * decode_timeout * windows)


def read_here(work: Work, plan: Plan, interrupted: Callable[[], bool] = lambda: False) -> Iterator[Filled]:
    """The batches, read by this process itself. Raises Interrupted, between two tasks."""
    number = 0
    while tasks := plan.tasks_of(number):
        rows = len(tasks) * plan.rows
        batch = carve(torch.empty(batch_bytes(plan.layout, rows), dtype=torch.uint8), plan.layout, rows)
        answers = []
        for task in tasks:
            if interrupted():
                raise Interrupted
            answers.append(work.read(task, plan.part(batch, task), {}, lambda attempt: None))
        yield batch, answers
        del batch
        number += 1
