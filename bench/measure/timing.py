"""The device: times of a call on it, from a cold cache; a limit for calls that may hang; what to do when it is lost."""

from __future__ import annotations

import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vatt.errors import UserError

# Bytes that flush a cache: more than the L2 of any GPU so far (50 MB on H100, 126 MB on B200), and more than the share
# of the last cache that a few cores have.
FLUSH = {"cuda": 256 << 20, "cpu": 64 << 20}
CYCLES_PER_MS = 1_800_000  # of the clock that torch.cuda._sleep counts, roughly
FEWEST, MOST = 5, 60

_buffers: dict[torch.device, torch.Tensor] = {}


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


class TooLong(Exception):
    """A call ran past its limit."""


class DeviceLost(Exception):
    """The CUDA context is gone (an illegal access, say): nothing more can run in this process."""


def measure(call: Callable[[], Any], device: torch.device, seconds: float) -> Timing:
    """Times ``call``, which ran before (compilers are warm), for about ``seconds``."""
    return summarise(*sample(call, device, seconds))


def sample(
    call: Callable[[], Any], device: torch.device, seconds: float, refresh: Callable[[], Any] = lambda: None
) -> tuple[list[float], list[float]]:
    """Milliseconds of the calls of about ``seconds``, and of issuing them. Before each call, and not timed, ``refresh``
    changes its inputs, and the caches are filled with something else. Without seconds it is only exercised."""
    if device.type != "cuda":

        def before() -> None:
            refresh()
            if seconds > 0:
                _buffer(device).fill_(1)

        times = repeat(call, seconds, 2 if seconds <= 0.1 else 1, before=before)  # one slow call a round is enough
        return times, times
    host = []
    for _ in range(3):  # with an idle device, whose work is not waited for
        torch.cuda.synchronize()
        host.append(_timed(call))
    issue = min(*host, 20.0)
    once = _events(call, device, issue, 2, refresh)[0][1]
    repeats = max(FEWEST if once < 500 else 3, min(MOST, int(1e3 * seconds / max(once, 0.01))))
    return _events(call, device, issue, repeats, refresh)


def repeat(
    call: Callable[[], Any], seconds: float, fewest: int, most: int = MOST, before: Callable[[], Any] = lambda: None
) -> list[float]:
    """Milliseconds of each call by the host's clock, for about ``seconds``, and ``fewest`` to ``most`` of them.
    ``before`` runs before each and is not timed."""
    times: list[float] = []
    while len(times) < fewest or (len(times) < most and sum(times) < 1e3 * seconds):
        before()
        times.append(_timed(call))
    return times


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def _events(
    call: Callable[[], Any], device: torch.device, issue: float, repeats: int, refresh: Callable[[], Any]
) -> tuple[list[float], list[float]]:
    """The device first sleeps for as long as the host needs to issue the call, so that gaps between launches, which a
    training step hides behind other work, do not enter; a call that waits for the device itself keeps them."""
    pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    hosts = []
    for start, end in pairs:
        refresh()
        _buffer(device).random_(0, 255)
        torch.cuda._sleep(int(CYCLES_PER_MS * (1.5 * issue + 0.05)))
        start.record()
        hosts.append(_timed(call))
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs], hosts


def _buffer(device: torch.device) -> torch.Tensor:
    if device not in _buffers:
        _buffers[device] = torch.empty(FLUSH[device.type], dtype=torch.uint8, device=device)
    return _buffers[device]


def summarise(times: list[float], hosts: list[float]) -> Timing:
    fifths = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
    return Timing(statistics.median(times), fifths[0], fifths[3], len(times), statistics.median(hosts), min(times))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooLong inside when it lasts longer. For the main thread; a call into C code is cut after it returns."""

    def stop(*_: Any) -> None:
        raise TooLong(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
