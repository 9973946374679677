"""Embedding on several devices: a process for each, with a share of the groups, and one that hears them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from vatt.data.config import DataConfig
from vatt.errors import UserError
from vatt.limits import end_with_parent
from vatt.search.embedding import Done, embed_groups
from vatt.search.format import SearchError
from vatt.search.model import load
from vatt.search.windows import ReadGroups
from vatt.signals import ENDING, children_without_interrupts

_START: Literal["spawn", "fork"] = "spawn"  # a forked process may not use a GPU
_GONE = 5.0  # seconds until a killed process has gone


@dataclass(frozen=True)
class _Share:
    """What one process does."""

    device: str
    model: Path
    precision: str
    vocabulary: Path | None
    work: ReadGroups
    config: DataConfig
    processes: int


def embed_on(
    devices: Sequence[str], model: Path, precision: str, vocabulary: Path | None, work: ReadGroups, config: DataConfig
) -> Iterator[list[Done]]:
    """The stretches of each group, in order, whichever device they were embedded on.

    Raises:
        SearchError: a process ended before it was done. UserError: what one of them raised.
    """
    if len(devices) == 1:
        yield from embed_groups(load(model, devices[0], precision, vocabulary), work, config)
        return
    count = min(len(devices), len(work.groups))
    shares = [
        _Share(device, model, precision, vocabulary, replace(work, groups=work.groups[number::count]), config, count)
        for number, device in enumerate(devices[:count])
    ]
    context: Any = multiprocessing.get_context(_START)
    crew: list[tuple[Any, Connection]] = []
    try:
        for share in shares:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(there, share, os.getpid()))
            with children_without_interrupts():
                process.start()
            there.close()
            crew.append((process, here))
        for number in range(len(work.groups)):
            process, pipe = crew[number % count]
            yield _answer(process, pipe, devices[number % count])
    finally:
        for process, pipe in crew:
            process.kill()
            process.join(_GONE)
            pipe.close()


def _answer(process: Any, pipe: Connection, device: str) -> list[Done]:
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        process.join(_GONE)
        raise SearchError(
            f"device: {device}: its process ended with status {process.exitcode}; what was done is kept, start again"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    done: list[Done] = answer
    return done


def _serve(pipe: Connection, share: _Share, parent: int) -> None:
    for number in ENDING:  # a terminal sends them to all; the parent ends this process
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent)
    if torch.device(share.device).type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // share.processes))
    with suppress(BrokenPipeError):  # the parent is gone
        try:
            model = load(share.model, share.device, share.precision, share.vocabulary)
            for done in embed_groups(model, share.work, share.config, share.processes):
                pipe.send(done)
        except UserError as error:
            pipe.send(SearchError(str(error)))
        except Exception:
            pipe.send(RuntimeError(f"in the process of {share.device}:\n{traceback.format_exc()}"))
