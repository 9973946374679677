"""bench.gpu on the CPU: the same code as on a GPU, with tiny shapes, the kernels in Triton's interpreter."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu, problems
from bench.costs import cost
from bench.evaluate import error, named, poisoned
from bench.floors import table
from bench.measure.peaks import EARLIER, Roofs
from bench.measure.timing import TooLong, limited
from bench.peers import COMPILE, OURS, providers
from bench.problems import make
from bench.shapes import OPS, REAL, TINY, AttentionShape, BlockShape, MlpShape, NormShape
from bench.suite.catalogue import Wish, plan, subjects
from bench.suite.ops import OpSubject
from bench.suite.session import Budget, Session
from bench.summary import speed as speed_lines
from bench.summary import targets as target_lines
from bench.sweep_targets import TARGETS, entry, replaced
from vatt.analysis.flops import forward_flops, tokens
from vatt.presets import preset

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="on a CPU the kernels need TRITON_INTERPRET=1")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of one run of everything."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--tiny", "--out", str(folder)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "summary.txt").read_text().splitlines()[-1] in done.stdout
    return folder


@pytest.mark.slow
def test_correctness_of_all_operations(out):
    found = rows(out / "correctness.csv")
    assert {row["op"] for row in found} == set(OPS)
    assert {row["backend"] for row in found} == {"triton", "triton_gemm"}
    for row in found:
        assert (row["passed"], row["nans"], row["same_bits"]) == ("True", "0", "True"), row
        assert (row["dropout"] == "0.1") == (row["error"] == ""), row  # with dropout there is nothing to compare with
        assert row["error"] == "" or float(row["error"]) <= float(row["bound"]) < 1e-4, row
    assert {"out", "grad weight", "grad positions", "grad token"} <= {r["tensor"] for r in found if r["op"] == OPS[0]}


@pytest.mark.slow
def test_speed_of_all_operations(out):
    found = rows(out / "speed.csv")
    assert {row["op"] for row in found} == {*OPS, "roof"}
    for op in OPS:
        timed = {(r["provider"], r["mode"]) for r in found if r["op"] == op and r["ms"]}
        for mode in ("forward", "forward+backward"):
            assert {(OURS, mode), ("torch", mode), (COMPILE, mode)} <= timed, op
    for row in found:
        assert "nan" not in row.values()
        assert row["ms"] or row["note"], row  # no time only with a reason
        assert not row["ms"] or float(row["ms"]) > 0
    refused = {row["provider"]: row["note"] for row in found if not row["ms"]}
    assert "flash-attn 2 is not installed" in refused["flash_attn"]
    kernels = {"sdpa_flash", "sdpa_cudnn", "flash_attn", "flash_attn_4", "xformers"}
    packages = {name for name, note in refused.items() if "No module named" in note}
    assert packages <= {"timm", "open_clip package", "liger", "liger, fused sum"}, refused  # where they are installed
    assert set(refused) <= kernels | packages, refused


@pytest.mark.slow
def test_the_other_files(out):
    facts = json.loads((out / "environment.json").read_text())
    assert {"device", "driver", "torch", "triton", "cuda", "commit", "dirty"} <= set(facts)
    assert {row["op"] for row in rows(out / "sweep.csv")} == set(OPS) - {"block"}
    assert all(row["ms"] for row in rows(out / "sweep.csv"))
    text = (out / "summary.txt").read_text()
    for words in ("the times below say nothing", "train: left out"):
        assert words in text
    assert "left out, no time" not in text


@interpreted
def test_resume_keeps_rows_and_a_spent_budget_is_named(tmp_path):
    arguments = ["--device", "cpu", "--tiny", "--only", "correctness", "--op", "norm", "--out", str(tmp_path)]
    assert gpu.main([*arguments, "--seconds", "1e-9"]) == 0
    assert "left out, no time: correctness norm layer p=0.1" in (tmp_path / "summary.txt").read_text()
    assert gpu.main(arguments) == 0
    before = (tmp_path / "correctness.csv").read_text()
    assert gpu.main([*arguments, "--resume"]) == 0
    assert (tmp_path / "correctness.csv").read_text() == before
    assert before.count("\n") > 10


@interpreted
@pytest.mark.parametrize("fault", ["scaled", "nan", "unsteady", "raises"])
def test_a_wrong_kernel_is_reported(monkeypatch, tmp_path, fault):
    right, calls = problems.layer_norm, []

    def wrong(*args, backend, **options):
        total, normed = right(*args, backend=backend, **options)
        if backend == "torch":
            return total, normed
        calls.append(1)
        if fault == "raises":
            raise RuntimeError("out of resource")
        factor = {"scaled": 1.001, "nan": float("nan"), "unsteady": 1 + 1e-7 * len(calls)}[fault]
        return total, normed * factor

    monkeypatch.setattr(problems, "layer_norm", wrong)
    code = gpu.main(["--device", "cpu", "--tiny", "--only", "correctness", "--op", "norm", "--out", str(tmp_path)])
    assert code == 1
    failed = [row for row in rows(tmp_path / "correctness.csv") if row["passed"] == "False"]
    assert {row["case"] for row in failed} == {"layer"}
    assert all(row["tensor"] != "total" for row in failed)
    assert "FAILED norm layer" in (tmp_path / "summary.txt").read_text()
    value = {row["tensor"]: row for row in failed}.get("normed", failed[0])
    assert fault != "scaled" or 5e-4 < float(value["error"]) < 2e-3
    assert fault != "nan" or value["nans"] == str(7 * 24)
    assert fault != "unsteady" or value["same_bits"] == "False"
    assert fault != "raises" or value["note"] == "RuntimeError: out of resource"


def test_new_memory_is_poisoned():
    with poisoned():
        assert torch.zeros(1).new_empty(4).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("shape", TINY, ids=lambda s: f"{s.op}-{s.name}")
def test_peers_compute_the_same(shape):
    """All but open_clip, another loss, against the plain backend: outputs and, on the same leaves, gradients."""
    problem = make(shape, CPU)
    want = named(problem, problem.call("torch", 0.0), problem.leaves)
    for name, provider in providers(shape).items():
        installed = not any(word in name for word in ("flash", "cudnn", "xformers"))
        if not installed or "open_clip" in name or (name.startswith(OURS) and not INTERPRETED):
            continue
        call, leaves = provider(problem, 0.0)
        found = named(problem, call, leaves)
        for key, value in found.items():
            if key in want:
                assert error(value, want[key]) < 1e-5, (name, key)
        parts = [found.get(f"grad {part}") for part in "qkv"]
        if parts[0] is not None:
            together = torch.stack(parts, 2).flatten(0, 1)
            assert error(together, want["grad qkv"]) < 1e-5, name


def test_a_provider_that_fails_is_a_row():
    class Broken(OpSubject):
        def prepare(self, provider):
            if provider == "torch":
                raise MemoryError("no room")
            return super().prepare(provider)

    subject = Broken(next(s for s in TINY if s.op == "norm"), 0.0, CPU, kernels=False)
    subject.providers = ("auto", "torch")
    found = []
    session = Session(found.append, CPU, Roofs(1e9, 1e9, 1e9), Budget(0.0, rounds=1))
    session.run(subject, heavy=False)
    by = {(row["provider"], row.get("mode")): row for row in found}
    assert by["torch", None]["note"] == "MemoryError: no room"
    assert "ms" not in by["torch", None]
    assert by["auto", "forward"]["ms"] > 0
    assert by["auto again", "forward+backward"]["ms"] > 0
    late = Session(found.append, CPU, Roofs(1e9, 1e9, 1e9), Budget(0.0, until=time.monotonic() - 1))
    late.run(subject, heavy=False)
    assert late.left_out == ["norm/layer/float32/p0: auto, torch"]
    with pytest.raises(TooLong), limited(0.05):
        time.sleep(5)


def test_the_plan_begins_with_the_targets_and_reaches_everything():
    work = plan(subjects(Wish("gpu", only="ops"), CPU, kernels=True))
    names = [(subject.name, heavy) for subject, heavy in work]
    assert len(set(names)) == len(names) == sum(4 if shape.has_dropout else 2 for shape in REAL)
    first = [number for number, (subject, _) in enumerate(work) if subject.shape.priority == 1 and subject.dropout > 0]
    assert names[0] == ("patch_embed/video_768/bfloat16/p0.1", False)
    assert max(first) < len(work) / 3


def test_shapes_are_those_of_the_models():
    base, named_shapes = preset("vatt-base"), {(shape.op, shape.name): shape for shape in REAL}
    kept = {name: count.kept for name, count in tokens(base).items()}
    lengths = {s.name: s.length for s in REAL if isinstance(s, AttentionShape)}
    names = {"video": "video_785_h12", "audio": "audio_601_h12", "text": "text_17_h8"}
    assert {part: lengths[name] - 1 for part, name in names.items()} == kept
    patch = named_shapes["patch_embed", "video_768"]
    assert cost(patch, False).flops == 64 * forward_flops(base)["video"].patch
    block = named_shapes["block", "video_785_768"]
    assert isinstance(block, BlockShape)
    video = forward_flops(base)["video"]
    assert cost(block, False).flops == 64 * (video.total - video.patch) / base.video.num_layers


def test_costs_and_floors():
    norm = NormShape(name="n", rows=10, width=100)
    assert cost(norm, False).bytes == 2 * (4 * 10 * 100 + 2 * 100)
    assert cost(norm, True, 0.1).bytes - cost(norm, True).bytes == 2 * 10 * 100  # x has a gradient of its own
    mlp = MlpShape(name="m", rows=10, width=8)
    assert cost(mlp, True).flops == 3 * cost(mlp, False).flops == 3 * 4 * 10 * 8 * 32
    assert Roofs(1e9, 1e6, 3e5).floor_ms(cost(mlp, False), torch.float32) == 1e3 * 10 * 8 * 32 * 4 / 1e5
    lines = list(table())
    assert len(lines) == 2 + 2 * len(REAL)
    assert {line.count("|") for line in lines} == {9}
    assert EARLIER.matmul < 989e12


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.op}-{t.kernel}")
@pytest.mark.parametrize("family", ["sm80", "sm90", "sm100"])
def test_sweep_targets_are_entries_of_the_tables(target, family):
    """If this fails, a table of kernels/*/triton_launch.py has changed and bench/sweep_targets.py has not."""
    before, value = getattr(target.module, target.table), target.candidates()[-1]
    assert set(target.shapes) <= {shape.name for shape in REAL if shape.op == target.op}
    with replaced(target, family, value):
        inside = getattr(target.module, target.table)
        assert (inside() if callable(inside) else entry(inside, target.where(family))) == value
    assert getattr(target.module, target.table) is before
    if not callable(before):
        old = entry(before, target.where(family))
        assert [type(x) for x in _flat(value)] == [type(x) for x in _flat(old)]
        pasted = re.sub(r"^\w+( =|:) ", "", target.line(family, value)).rstrip(",")
        scope = {"LaunchConfig": target.module.LaunchConfig}
        assert value in _leaves(eval("{" + pasted + "}" if target.path else pasted, scope))


def _flat(value):
    return list(value) if isinstance(value, tuple) else [value]


def _leaves(value):
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [value, *(value if isinstance(value, tuple) else ())]


def test_targets_of_the_summary():
    case = dict(
        op="patch_embed", case="video_768", dropout="0.1", mode="forward+backward", peak_mib="100", floor_share="0.72"
    )
    times = {OURS: 1.0, "torch": 4.5, COMPILE: 1.9, "gather + cuBLAS": 1.25}
    found = [{**case, "provider": name, "ms": str(ms)} for name, ms in times.items()]
    verdicts = [line.rpartition(": ")[2] for line in target_lines(found)]
    assert verdicts == [
        "met (4.50x of torch)",
        "MISSED (1.90x of torch.compile)",
        "met (1.25x of gather + cuBLAS)",
        "met (72%)",
    ]
    (line,) = speed_lines(found, short=True)
    for words in ("best peer gather + cuBLAS 1.25x", "eager 4.50x", "compile 1.90x"):
        assert words in line
