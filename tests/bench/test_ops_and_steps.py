"""Operations and steps on a CPU with tiny shapes, as a user starts them: python -m bench and pytest-benchmark."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import run
from bench.cases import OPS, SIZES
from bench.checks.correctness import largest_error
from bench.measure.peaks import DevicePeaks
from bench.measure.session import Session, select
from bench.store import read
from bench.subjects import Operation, subjects
from tests.bench.commands import bench
from tests.limits import HANG
from vatt.kernels.timing import sample

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "TRITON_INTERPRET": "0"}
PACKAGES = ("timm", "transformers", "liger", "open_clip package")  # compared with where they are installed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "results.csv"
    for name in ("ops", "steps"):
        done = bench(name, "--size", "tiny", "--device", "cpu", "--threads", "1", "--results", str(path))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return path


@pytest.mark.slow
def test_every_operation_and_step_has_its_rows(results):
    rows = read(results)
    timed = {(r["op"], r["provider"], r["mode"]) for r in rows if r["ms"]}
    for op in OPS:
        modes = ("forward", "forward+backward")[: 1 + next(c.has_gradient for c in SIZES["tiny"] if c.op == op)]
        for provider in ("auto", "auto again", "torch", "torch.compile"):
            assert {(op, provider, mode) for mode in modes} <= timed, (op, provider)
    for provider in ("ours auto", "ours torch", "ours torch.compile", "plain PyTorch"):
        assert {("step", provider, mode) for mode in ("forward", "forward+backward", "step")} <= timed, provider
    assert {r["case"] for r in rows if r["op"] == "roof"} == {"copy", "matmul"}
    for row in rows:
        assert row["commit"], row
        assert row["device"], row
        if not row["ms"]:
            assert row["note"], row
            assert any(name in row["provider"] for name in PACKAGES), row
            continue
        assert 0 < float(row["ms_p20"]) <= float(row["ms"]) <= float(row["ms_p80"]) or row["op"] == "roof", row
        assert row["error"] == "" or float(row["error"]) < 1e-5, row
        other = row["op"] == "nce" or (row["op"], row["provider"]) == ("patch_embed", "timm")  # computes something else
        assert row["error"] or row["dropout"] != "0" or row["suite"] != "ops" or other, row
        if row["suite"] == "steps":
            assert float(row["rate"]) == pytest.approx(2e3 / float(row["ms"]), rel=1e-3)


@pytest.mark.slow
def test_a_row_is_measured_again_by_its_command(results):
    row = next(r for r in read(results) if r["op"] == "mlp" and r["provider"] == "torch" and r["dropout"] == "0.1")
    words = row["command"].split()
    assert words[:4] == ["python", "-m", "bench", "ops"]
    done = bench(*shlex.split(row["command"])[3:], "--size", "tiny", "--device", "cpu", "--threads", "1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "roof " not in line[:5]]
    assert [line.split(":")[0] for line in lines[1:]] == [
        f"mlp {row['case']} p=0.1 {mode} torch" for mode in ("forward", "forward+backward")
    ]


@pytest.mark.slow
def test_pytest_benchmark_reports_the_same_cases(tmp_path):
    path = tmp_path / "benchmark.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench",
        "-k",
        "norm/layer and p0.1 and not compile",
        "-p",
        "no:randomly",
    ]
    command += ["--bench-size", "tiny", "--bench-device", "cpu", "--bench-rounds", "3", f"--benchmark-json={path}"]
    env = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["benchmarks"]
    assert {(b["extra_info"]["provider"], b["extra_info"]["mode"]) for b in found} >= {
        (provider, mode) for provider in ("auto", "torch") for mode in ("forward", "forward+backward")
    }
    for benchmark in found:
        assert benchmark["stats"]["rounds"] == 3
        assert 0 < benchmark["stats"]["median"] < 1
        assert benchmark["extra_info"]["tflops"] == 0  # no matrix product in a norm


LAYER = next(case for case in SIZES["tiny"] if case.name == "layer")


def norm(dropout=0.0):
    return Operation(LAYER, dropout, CPU, kernels=False)


def test_inputs_change_before_every_call():
    seen = []
    prepared = norm().prepare("torch")
    call = prepared.calls["forward"]
    sample(lambda: seen.append(call()[0].detach().clone()), CPU, 1e-9, prepared.refresh)
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0].flip(0), seen[1])  # the same numbers in other places


def test_the_reference_is_that_of_the_inputs():
    subject = norm()
    for provider in ("torch", "auto", "torch"):
        prepared = subject.prepare(provider)
        assert prepared.error < 1e-6
        prepared.refresh()
    assert norm(dropout=0.1).prepare("torch").error is None


def test_a_wrong_provider_has_a_large_error(monkeypatch):
    subject = norm()
    right = subject.problem.call
    wrong = lambda backend, dropout=0.0: lambda: tuple(1.5 * out for out in right(backend, dropout)())  # noqa: E731
    monkeypatch.setattr(subject.problem, "call", wrong)
    assert subject.prepare("torch").error > 0.1


@pytest.mark.slow
def test_resume_measures_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vatt.results.origin", lambda device, aside: {**_origin(device), "dirty": "False"})
    path = tmp_path / "results.csv"
    words = ["--size", "tiny", "--device", "cpu", "--op", "norm", "--case", "norm/rms", "--threads", "1"]
    words += ["--results", str(path), "--provider", "torch"]
    assert run.main(["ops", *words]) == 0
    before = len(read(path))
    assert run.main(["ops", *words, "auto", "--resume"]) == 0
    added = [r for r in read(path)[before:] if r["suite"] == "ops"]
    assert {r["provider"] for r in added} == {"auto", "auto again"}
    capsys.readouterr()
    assert run.main(["ops", *words, "--resume"]) == 0
    assert "nothing new to measure" in capsys.readouterr().out


@pytest.mark.slow
def test_resume_measures_the_modes_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.results.origin", lambda device, aside: {**_origin(device), "dirty": "False"})
    path = tmp_path / "results.csv"
    words = ["--size", "tiny", "--device", "cpu", "--op", "norm", "--case", "norm/rms", "--threads", "1"]
    words += ["--results", str(path), "--provider", "torch"]
    assert run.main(["ops", *words, "--mode", "forward"]) == 0
    before = len(read(path))
    assert run.main(["ops", *words, "--mode", "forward+backward", "--resume"]) == 0
    assert {row["mode"] for row in read(path)[before:] if row["suite"] == "ops"} == {"forward+backward"}


def _origin(device):
    return {"time": "", "run": "x", "commit": "c", "device": "d", "torch": "t", "triton": "n", "threads": "1"}


def test_choice_of_cases_and_the_list(capsys):
    subject = norm()
    assert subject.name == "norm/layer/float32/p0"
    for pattern in ("*", "norm", "norm/layer", "norm/*/float32/p0", "n*"):
        assert select([subject], pattern), pattern
    for pattern in ("mlp", "norm/rms", "norm/layer/float32/p0.1", "nor"):
        assert not select([subject], pattern), pattern
    assert run.main(["ops", "--list", "--device", "cpu", "--op", "attention"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "attention/video_785_h12/float32/p0.1: auto, torch, torch.compile" in lines


def test_names_are_unique_and_shapes_are_told():
    for size, found in SIZES.items():
        names = [subject.name for subject in subjects(CPU, size, kernels=True)]
        assert len(set(names)) == len(names), size
        assert {shape.op for shape in found} == set(OPS)
    assert SIZES["tiny"][0].words == "signal (2, 4, 8, 8, 3), patch (2, 4, 4), kept 5, width 16"


@pytest.mark.parametrize("bad", [0, 1])
def test_an_output_that_is_not_finite_has_no_error_and_no_time(bad):
    case = norm().case
    want = {"total": torch.ones(3), "normed": torch.ones(3)}
    outputs = [torch.ones(3), torch.ones(3)]
    assert largest_error(case, tuple(outputs), want) == 0.0
    outputs[bad] = torch.tensor([1.0, float("nan"), 1.0])
    with pytest.raises(ArithmeticError, match="not finite"):
        largest_error(case, tuple(outputs), want)


def test_providers_take_turns():
    order = []

    class Turns(Operation):
        def prepare(self, provider):
            prepared = super().prepare(provider)
            call = prepared.calls["forward"]
            prepared.calls = {"forward": lambda: order.append(provider) or call()}
            return prepared

    subject = Turns(LAYER, 0.0, CPU, kernels=False)
    subject.providers = ("auto", "torch")
    Session(lambda row: None, CPU, DevicePeaks(1e9, 1e9, 1e9), 0.0, rounds=3).run(subject, heavy=False)
    rounds = [name for name, _ in itertools.groupby(order)]
    assert rounds.count("torch") == 1 + 3  # once for its memory, then in each round
    assert rounds.count("auto") >= 1 + 3
