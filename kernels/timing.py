"""Times of a call on a device, from a cold cache, and a limit for calls that may hang."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Bytes that flush a cache: more than the L2 of any GPU so far (50 MB on H100, 126 MB on B200), and more than the share
# of the last cache that a few cores have.
FLUSH = {"cuda": 256 << 20, "cpu": 64 << 20}
CYCLES_PER_MS = 1_800_000  # of the clock that torch.cuda._sleep counts, roughly
FEWEST, MOST = 5, 60

_buffers: dict[torch.device, torch.Tensor] = {}


class TooLong(Exception):
    """A call ran past its limit."""


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

        times = repeat(call, seconds, 2 if 0 < seconds <= 0.1 else 1, before=before)  # one slow call a round is enough
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


def free_buffers() -> None:
    """Gives back the memory that flushes caches."""
    _buffers.clear()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooLong inside when it lasts longer: in the main thread, and a call into C code is cut after it returns.
    Elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLong(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
