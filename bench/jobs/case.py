"""A case of a job: its row, how it is timed, and that its failure is a row, too.

A job is a generator of messages: {"begin": row} before a case and {"done": row} after it. If nothing more comes after a
"begin", that case ended the process.
"""

from __future__ import annotations

import resource
import shlex
import time
from collections.abc import Callable, Generator
from typing import Any

import torch

from bench.jobs.options import GIB, Options
from bench.measure.process import Message
from bench.measure.timing import Timing, reason, tidy

Row = dict[str, Any]
MOST = 200  # calls of one case


def case(options: Options, job: str, name: str, *, mode: str, provider: str, select: Row, **rest: Any) -> Row:
    """The columns that say what is measured. ``select``: the options of the command line that pick this case out of its
    job; ``rest``: shape, dtype, dropout."""
    words = ["python", "-m", "bench", "jobs", "--only", job]
    for option, value in (select | dict(device=options.device, size=options.size)).items():
        words += [f"--{option}", str(value)]
    if options.backend != "auto":
        words += ["--backend", options.backend]
    about = dict(suite="jobs", op=job, case=name, mode=mode, provider=provider)
    return {**about, **rest, "command": shlex.join(words)}


def attempt(about: Row, device: torch.device, measure: Callable[[], Row]) -> Generator[Message, None, bool]:
    """Measures a case: its row, or a row that says why there are no figures. Returns False if it failed."""
    yield {"begin": about}
    try:
        found, done = measure(), True
    except Exception as failure:  # refused, not installed, out of memory: a row says so
        size = resource.getrlimit(resource.RLIMIT_DATA)[0]
        limit = "" if size == resource.RLIM_INFINITY else f" (this process may hold {size / GIB:.1f} GiB)"
        memory = f"out of memory{limit}: " if _out_of_memory(failure) else ""
        found, done = {"note": memory + reason(failure)}, False
    yield {"done": {**about, **found}}
    tidy(device)  # not before: the exception held the tensors of the frames that it came through
    return done


def _out_of_memory(failure: BaseException) -> bool:
    """Whether memory ended: the GPU's, or that which this process may have."""
    if isinstance(failure, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(failure) for words in ("can't allocate memory", "Cannot allocate memory", "out of memory"))


def repeat(call: Callable[[], Any], seconds: float, fewest: int) -> list[float]:
    """Milliseconds of each call, for about ``seconds`` and at least ``fewest`` of them."""
    found: list[float] = []
    while len(found) < fewest or (sum(found) < 1e3 * seconds and len(found) < MOST):
        began = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - began))
    return found


def figures(timing: Timing, items: int, unit: str, **rest: Any) -> Row:
    """The columns of a timing, and the rate of so many items a call."""
    times = dict(ms=timing.median, ms_p20=timing.p20, ms_p80=timing.p80, repeats=timing.repeats, host_ms=timing.host)
    return {**times, "rate": 1e3 * items / timing.median, "unit": unit, **rest}
