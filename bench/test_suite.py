"""The suite under pytest-benchmark: ``pytest bench -k 'attention and forward' --benchmark-autosave``.

Its tables, storage and comparison (``--benchmark-compare``) work as ever. The times are those of `bench.timing`: on a
GPU by CUDA events, each call from a cold L2 with changed inputs. A provider that cannot run is skipped with its reason.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.conftest import selected
from bench.measure.peaks import Roofs, measure_roofs
from bench.measure.timing import reason, sample, tidy
from bench.suite.prepared import Prepared, Subject


class Clock:
    """A timer that only moves while a call runs, by the time that the device took."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, call: Callable[[], Any], prepared: Prepared, device: torch.device) -> None:
        times, _ = sample(call, device, 1e-9, prepared.refresh)  # as few calls as give a time
        self.now += 1e-3 * statistics.median(times)


class Holder:
    """The provider that was prepared last: its modes are neighbours."""

    def __init__(self) -> None:
        self.key: tuple[Subject, str] | None = None
        self.found: Prepared | Exception | None = None

    def get(self, subject: Subject, provider: str) -> Prepared:
        """Raises what preparing it raised, for each of its modes."""
        if self.key != (subject, provider):
            self.drop()
            self.key = (subject, provider)
            try:
                self.found = subject.prepare(provider)
            except Exception as failure:
                self.found = failure
        if isinstance(self.found, Exception):
            raise self.found
        assert self.found is not None
        return self.found

    def drop(self) -> None:
        if self.key is not None:
            self.key[0].release()
        self.key = self.found = None


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> torch.device:
    return selected(request.config)[0]


@pytest.fixture(scope="module")
def roofs(request: pytest.FixtureRequest, device: torch.device) -> Roofs:
    size = selected(request.config)[1]
    return measure_roofs(device, size, 0.01 if size == "tiny" else 1.0)[0]


@pytest.fixture(scope="module")
def holder(device: torch.device) -> Iterator[Holder]:
    found = Holder()
    yield found
    found.drop()
    tidy(device)


CLOCK = Clock()


@pytest.mark.benchmark(timer=CLOCK)
def test_speed(
    work: tuple[Subject, str, str],
    benchmark: Any,
    device: torch.device,
    roofs: Roofs,
    holder: Holder,
    request: pytest.FixtureRequest,
) -> None:
    subject, provider, mode = work
    began = time.perf_counter()
    try:
        prepared = holder.get(subject, provider)
    except Exception as failure:
        pytest.skip(reason(failure))
    benchmark.group = f"{subject.name} {mode}"
    rounds = request.config.getoption("--bench-rounds")
    benchmark.pedantic(lambda: CLOCK.run(prepared.calls[mode], prepared, device), rounds=rounds)
    if not benchmark.enabled:
        return
    times = sorted(1e3 * seconds for seconds in benchmark.stats.stats.data)
    median, needed = statistics.median(times), prepared.costs[mode]
    about = {**subject.about, "provider": provider, "mode": mode, "ms_p20": times[len(times) // 5]}
    about |= dict(ms_p80=times[-1 - len(times) // 5], tflops=needed.flops / median * 1e-9)
    about |= dict(floor_share=roofs.floor_ms(needed, subject.dtype) / median, error=prepared.error)
    about |= dict(first_call_s=prepared.first_call_s, prepared_s=time.perf_counter() - began)
    benchmark.extra_info.update(about)
