"""The device: times of a call on it, a limit for calls that may hang, and what to do when it is lost."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vatt.errors import UserError
from vatt.kernels.timing import limited, reason, sample


@dataclass(frozen=True)
class Timing:
    """Milliseconds: ``median``, ``p20``, ``p80`` and the ``best`` of ``repeats`` calls; ``host``: how long issuing a
    call took."""

    median: float
    p20: float
    p80: float
    repeats: int
    host: float
    best: float

    @property
    def figures(self) -> dict[str, Any]:
        """The columns of a results file."""
        return dict(ms=self.median, ms_p20=self.p20, ms_p80=self.p80, repeats=self.repeats, host_ms=self.host)


class DeviceLost(Exception):
    """The CUDA context is gone (an illegal access, say): nothing more can run in this process."""


def measure(call: Callable[[], Any], device: torch.device, seconds: float) -> Timing:
    """Times ``call``, which ran before (compilers are warm), for about ``seconds``."""
    return summarise(*sample(call, device, seconds))


def summarise(times: list[float], hosts: list[float]) -> Timing:
    fifths = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
    return Timing(statistics.median(times), fifths[0], fifths[3], len(times), statistics.median(hosts), min(times))


@contextmanager
def guarded(seconds: float, device: torch.device, failed: Callable[[Exception], Any]) -> Iterator[None]:
    """A failure inside (refused, not installed, out of memory, does not compile, takes longer than ``seconds``) is told
    to ``failed``, and what it held is given back. Raises DeviceLost where the device is lost with it."""
    try:
        with limited(seconds):
            yield
        return
    except DeviceLost:
        raise
    except Exception as failure:  # whatever a compiler, a driver or a missing package raises
        failed(failure)
    tidy(device)  # not before: the exception held the tensors of the frames that it came through


def device_and_size(device: str | None, size: str | None) -> tuple[str, str]:
    """What was asked for, or a GPU where there is one, and the size of cases for it. Raises UserError."""
    cuda = torch.cuda.is_available()
    device = device or ("cuda" if cuda else "cpu")
    if device == "cuda" and not cuda:
        raise UserError("device cuda: PyTorch finds none here")
    return device, size or ("gpu" if device == "cuda" else "cpu")


def synchronize(device: torch.device) -> None:
    """Waits for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def tidy(device: torch.device) -> None:
    """Gives back what a case held. Raises DeviceLost where the device no longer answers."""
    gc.collect()
    try:
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    except RuntimeError as error:
        raise DeviceLost(reason(error)) from error
