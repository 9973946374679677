"""The suite under pytest-benchmark: ``pytest bench -k 'attention and forward' --benchmark-autosave``.

Its tables, storage and comparison (``--benchmark-compare``) work as ever. The times are those of
`bench.measure.timing`: on a GPU by CUDA events, each call from a cold L2 with changed inputs. A provider that cannot
run is skipped with its reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.conftest import selected
from bench.measure.peaks import DevicePeaks, measure_peaks
from bench.measure.session import Prepared, Subject
from bench.measure.timing import reason, sample, tidy

Work = tuple[Subject, str, str]


class Prepares:
    """Prepares providers, and holds the last: its modes are neighbours."""

    def __init__(self) -> None:
        self.key: tuple[Subject, str] | None = None
        self.found: Prepared | str = ""  # or why there is none

    def get(self, subject: Subject, provider: str) -> Prepared:
        if self.key != (subject, provider):
            self.drop()
            self.key = (subject, provider)
            try:
                self.found = subject.prepare(provider)
            except Exception as failure:
                self.found = reason(failure)
        if isinstance(self.found, str):
            pytest.skip(self.found)
        return self.found

    def drop(self) -> None:
        if self.key is not None:
            self.key[0].release()
        self.key, self.found = None, ""


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> torch.device:
    return selected(request.config)[0]


@pytest.fixture(scope="module")
def peaks(request: pytest.FixtureRequest, device: torch.device) -> DevicePeaks:
    return measure_peaks(device, selected(request.config)[1])[0]


@pytest.fixture(scope="module")
def prepares(device: torch.device) -> Iterator[Prepares]:
    found = Prepares()
    yield found
    found.drop()
    tidy(device)


NOW = [0.0]  # a clock that only moves while a call runs, by the time that the device took


@pytest.mark.benchmark(timer=lambda: NOW[0])
def test_speed(
    work: Work,
    benchmark: Any,
    device: torch.device,
    peaks: DevicePeaks,
    prepares: Prepares,
    request: pytest.FixtureRequest,
) -> None:
    subject, provider, mode = work
    prepared = prepares.get(subject, provider)

    def run() -> None:
        times, _ = sample(prepared.calls[mode], device, 1e-9, prepared.refresh)  # as few calls as give a time
        NOW[0] += 1e-3 * statistics.median(times)

    benchmark.group = f"{subject.name} {mode}"
    benchmark.pedantic(run, rounds=request.config.getoption("--bench-rounds"))
    if not benchmark.enabled:
        return
    times = sorted(1e3 * seconds for seconds in benchmark.stats.stats.data)
    median, needed, fifth = statistics.median(times), prepared.costs[mode], len(times) // 5
    about = {**subject.about, "provider": provider, "mode": mode, "ms_p20": times[fifth], "ms_p80": times[-1 - fifth]}
    bound = peaks.lower_bound_ms(needed.flops, needed.bytes, subject.dtype)
    about |= dict(tflops=needed.flops / median * 1e-9, floor_share=bound / median, error=prepared.error)
    benchmark.extra_info.update(about, first_call_s=prepared.first_call_s)
