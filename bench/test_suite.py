"""The suite under pytest-benchmark: ``pytest bench -k 'attention and forward' --benchmark-autosave``.

Its tables, storage and comparison (``--benchmark-compare``) work as ever. The times are those of
`bench.measure.timing`: on a GPU by CUDA events, each call from a cold L2 with changed inputs. A provider that cannot
run is skipped with its reason.
"""

from __future__ import annotations

import statistics
from functools import lru_cache
from typing import Any

import pytest

from bench.conftest import selected
from bench.measure.peaks import DevicePeaks, measure_peaks
from bench.measure.session import Prepared, Subject, row_of
from bench.measure.timing import summarise
from vatt.kernels.timing import reason, sample

Work = tuple[Subject, str, str]


@pytest.fixture(scope="module")
def peaks(pytestconfig: pytest.Config) -> DevicePeaks:
    return measure_peaks(*selected(pytestconfig))[0]


@lru_cache(maxsize=1)  # modes of a provider are neighbours
def prepared_or_reason(subject: Subject, provider: str) -> Prepared | str:
    subject.release()  # what was held for the provider before
    try:
        return subject.prepare(provider)
    except Exception as failure:
        return reason(failure)


NOW = [0.0]  # a clock that only moves while a call runs, by the time that the device took


@pytest.mark.benchmark(timer=lambda: NOW[0])
def test_speed(work: Work, benchmark: Any, peaks: DevicePeaks, pytestconfig: pytest.Config) -> None:
    subject, provider, mode = work
    prepared = prepared_or_reason(subject, provider)
    if isinstance(prepared, str):
        pytest.skip(prepared)

    def run() -> None:
        times, _ = sample(prepared.calls[mode], subject.device, 1e-9, prepared.refresh)  # as few calls as give a time
        NOW[0] += 1e-3 * statistics.median(times)

    benchmark.group = f"{subject.name} {mode}"
    benchmark.pedantic(run, rounds=pytestconfig.getoption("--bench-rounds"))
    if benchmark.enabled:
        times = [1e3 * seconds for seconds in benchmark.stats.stats.data]
        row = row_of(subject, provider, mode, prepared, summarise(times, [0.0]), peaks)
        benchmark.extra_info.update({**row, "host_ms": None})  # not measured here
