"""Rows of the suite "jobs", and a case that fails as a row with its reason."""

from __future__ import annotations

import resource
import shlex
from collections.abc import Callable
from typing import Any, Protocol

import torch

from bench.jobs.options import GIB, Options
from bench.measure.timing import Timing, reason, tidy
from vatt.models.config import VATTConfig

Row = dict[str, Any]


class Report(Protocol):
    """Who hears of the cases of a job."""

    def begin(self, about: Row) -> None:
        """A case begins; if nothing more comes, it is the one that ended the process."""

    def done(self, row: Row) -> None:
        """A case was measured, or failed and says so in its note."""


class Rows:
    """Collects rows in this process."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def begin(self, about: Row) -> None:
        pass

    def done(self, row: Row) -> None:
        self.rows.append(row)


def case(options: Options, job: str, name: str, *, mode: str, provider: str, **rest: Any) -> Row:
    """The columns that say what is measured. ``rest``: shape, dtype, dropout, and ``select``, the words of the command
    line that pick this case out of its job."""
    words = ["python", "-m", "bench.jobs", "--only", job, *rest.pop("select")]
    words += ["--device", options.device, "--size", options.size]
    if options.backend != "auto":
        words += ["--backend", options.backend]
    about = dict(suite="jobs", op=job, case=name, mode=mode, provider=provider)
    return {**about, **rest, "command": shlex.join(words)}


def attempt(report: Report, about: Row, device: torch.device, measure: Callable[[], Row]) -> bool:
    """Measures a case, and reports its row or why there is none. False: it failed."""
    report.begin(about)
    try:
        found = measure()
    except Exception as failure:  # refused, not installed, out of memory: a row says so
        note = f"out of memory{_limit()}: {reason(failure)}" if out_of_memory(failure) else reason(failure)
    else:
        report.done({**about, **found})
        return True
    report.done({**about, "note": note})
    tidy(device)  # not before: the exception held the tensors of the frames that it came through
    return False


def out_of_memory(failure: BaseException) -> bool:
    """Whether memory ended: the GPU's, or that which this process may have."""
    if isinstance(failure, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(failure) for words in ("can't allocate memory", "Cannot allocate memory", "out of memory"))


def _limit() -> str:
    """Of the memory of this process, in words, if there is one."""
    size = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return "" if size == resource.RLIM_INFINITY else f" (this process may hold {size / GIB:.1f} GiB)"


def times(timing: Timing) -> Row:
    """The columns of a timing."""
    return dict(ms=timing.median, ms_p20=timing.p20, ms_p80=timing.p80, repeats=timing.repeats, host_ms=timing.host)


def inputs_in_words(config: VATTConfig, batch: int) -> str:
    """The shape of a batch."""
    spec = config.input
    return (
        f"batch {batch}, {spec.frames} x {spec.size} x {spec.size} pixels, {spec.samples} samples, "
        f"{spec.candidates} x {spec.words} words"
    )
