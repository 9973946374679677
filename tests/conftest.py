"""The suite sees no GPU and runs Triton's kernels in its interpreter, so that it is the same on every machine.
``VATT_TEST_GPU=1 pytest tests/kernels tests/models tests/objectives`` compiles the kernels and runs them on a GPU.

Under ``pytest -n`` the processes share the cores: each computes on one.

Tiers: a test is ``slow`` if its function, class or file says so, and ``fast`` otherwise. ``pytest -m fast`` is what a
contributor runs at each change; the end of every run names the tests that took long without being marked.
"""

from __future__ import annotations

import gc
import os
from collections import Counter

# Before PyTorch and Triton are imported, which read these. Commands that tests start inherit them.
if os.environ.get("VATT_TEST_GPU", "0") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.interpreter import quicken

if os.environ.get("TRITON_INTERPRET") == "1":
    quicken()

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

LONG = 5.0  # seconds, set-up included; generous, since a loaded machine is slower


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker("fast")


def pytest_collection_finish():
    """What was imported lives as long as the process: the collections to come need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Names the fast tests that were not fast. No failure: a loaded machine makes any test slow."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if "fast" in getattr(report, "keywords", ()) and hasattr(report, "duration"):  # deselected items have none
                seconds[report.nodeid] += report.duration
    long = [(name, taken) for name, taken in seconds.most_common() if taken > LONG]
    if long:
        terminalreporter.section(f"fast tests that took over {LONG:g} s (mark them slow)")
        for name, taken in long:
            terminalreporter.line(f"{taken:6.1f} s  {name}")
