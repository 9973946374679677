"""Injected faults: a few of each kind, what is told of an outcome, and the table in the docs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.__main__ import main as benchmark
from bench.faults.harness import NotInjected, Outcome, PromiseBroken, difference
from bench.faults.kinds import FAULTS, Fault
from bench.faults.run import FIELDS, PAGE, RESULTS, filled, inject, table
from tests.limits import HANG
from vatt.files import TREE
from vatt.results import read


@pytest.mark.slow
def test_a_few_faults_are_survived():
    command = [sys.executable, "-m", "bench", "faults", "--quick", "--seed", "15"]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in FAULTS:
        if fault.quick:
            assert f"| {fault.name} | {fault.quick} | {fault.quick} |" in done.stdout


class NoHarness:
    def clear(self):
        pass


def outcomes(*found):
    def one(harness, random, number):
        if isinstance(found[number], Exception):
            raise found[number]
        return found[number]

    return Fault("a fault", one, len(found), lose=3, kills=True)


def test_what_is_below_the_promise_is_counted_and_told(capsys):
    equal, worse, unequal = Outcome(3, True), Outcome(4, True), Outcome(0, False, "losses of step 7")
    fault = outcomes(equal, worse, unequal, PromiseBroken("hangs"), Outcome(1))
    row = inject(NoHarness(), fault, 5, range(5))
    assert {name: row[name] for name in ("injected", "survived", "compared", "equal", "lost", "below")} == {
        **{"injected": 5, "survived": 4, "compared": 3, "equal": 2, "lost": 4, "below": 3},
    }
    told = capsys.readouterr().out
    for words in ("4 steps were lost", "losses of step 7", "hangs", "--only 'a fault' --seed 5 --first 3 --times 1"):
        assert words in told
    assert "| a fault | 5 | 4 | 4 (3) | 2 of 3 | bit-equal | 3 |" in table([row])
    assert "5 kills, 3 of them below the promise" in table([row])


def test_what_a_machine_does_not_allow_is_told_and_not_counted(capsys):
    row = inject(NoHarness(), outcomes(NotInjected("needs root")), 5, range(1))
    assert "needs root" in capsys.readouterr().out
    assert "| a fault | not injected |" in table([row])


def run_folder(path, loss=1.5, weight=0.25):
    for name in ("model", "checkpoints/step-00000002"):
        (path / name).mkdir(parents=True)
        save_file({"w": np.array([1.0, weight], np.float32)}, path / name / "model.safetensors")
    lines = [{"kind": "train", "step": step, "loss": loss, "lr": 0.1} for step in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')
    return path


def test_runs_are_equal_only_if_every_bit_is(tmp_path):
    one, same = run_folder(tmp_path / "one"), run_folder(tmp_path / "same")
    loss, weight = run_folder(tmp_path / "loss", loss=1.5 + 1e-9), run_folder(tmp_path / "weight", weight=0.2500001)
    assert difference(same, one) == ""
    assert "losses of step 1" in difference(loss, one)
    assert difference(weight, one) == "model/model.safetensors"
    assert difference(weight, one, near=1e-3) == difference(loss, one, near=1e-3) == ""
    assert "tensors differ by" in difference(run_folder(tmp_path / "far", weight=0.26), one, near=1e-3)
    (one / "metrics.jsonl").write_text("")
    assert "records of steps [1, 2]" in difference(same, one)


def test_file_operations_are_counted(tmp_path):
    """In a process of its own: an audit hook stays."""
    code = """
import os, shutil, sys
from pathlib import Path
from bench.faults.inject import at_file_operation
out = Path(sys.argv[1])
at_file_operation(out / "run", 6, lambda: os._exit(7), out / "log")
(out / "other").write_text("x")
(out / "run").mkdir()
(out / "run" / "a").write_text("x")
os.replace(out / "run" / "a", out / "run" / "b")
with (out / "run" / "b").open() as file:
    os.fsync(file.fileno())
(out / "run" / "c").touch()
(out / "run" / "b").unlink()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=TREE, timeout=HANG)
    assert done.returncode == 7
    found = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert found == ["os.mkdir", "open", "os.rename", "fsync", "open", "os.remove"]
    assert (tmp_path / "run" / "b").exists()


def test_an_unknown_fault_is_told():
    assert benchmark(["faults", "--only", "nothing of the kind"]) == 2


def test_the_page_has_the_table_of_the_rows():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, read(RESULTS, FIELDS)) == page
