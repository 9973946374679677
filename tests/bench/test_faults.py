"""Injected faults: a few of each kind, and what is told of an outcome."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bench.faults import run
from bench.faults.kinds import FAULTS, Fault
from bench.faults.lab import Outcome
from tests.limits import HANG
from vatt.files import TREE
from vatt.results import read


@pytest.mark.slow
def test_a_few_faults_of_each_kind_are_survived():
    command = [sys.executable, "-m", "bench", "faults", "--quick", "--seed", "15"]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in FAULTS:
        if fault.quick:
            assert f"| {fault.name} | {fault.quick} | {fault.quick} |" in done.stdout
