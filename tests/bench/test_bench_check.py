"""``python -m bench check`` on the CPU, with the code that runs on a GPU, at tiny shapes and in Triton's interpreter;
and what the cases say of their operations."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

from bench import check
from bench.cases import OPS, SEARCH_SPACES, SIZES, norm
from bench.cases.attention import Attention
from bench.cases.base import COMPILE, OURS, TORCH, Problem
from bench.cases.mlp import Mlp
from bench.cases.norm import Norm
from bench.checks import correctness
from bench.checks.correctness import error, named, poisoned
from bench.measure import timing
from bench.measure.peaks import EARLIER, DevicePeaks, lower_bounds
from bench.measure.session import Session, plan
from bench.measure.timing import DeviceLost
from bench.subjects import Operation, subjects
from bench.sweep import COMMITTED, NO_TIME, candidates, key_on, line, module, replaced
from tests.bench.commands import bench
from tests.kernels.planted import plant, uproot
from vatt.analysis.flops import forward_flops, tokens
from vatt.kernels.timing import TooLong, limited
from vatt.presets import preset

pytest.importorskip("triton")
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
    if not INTERPRETED:
        pytest.skip("on a CPU the kernels need TRITON_INTERPRET=1")
    done = bench("check", "--device", "cpu", "--tiny", "--out", str(folder), interpret=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "summary.txt").read_text().splitlines()[-1] in done.stdout
    return folder


@pytest.mark.slow
def test_correctness_of_all_operations(out):
    found = rows(out / "correctness.csv")
    assert {row["op"] for row in found} == set(OPS)
    assert {row["backend"] for row in found} == {"triton", "triton_gemm", "gather"}
    for row in found:
        assert (row["passed"], row["nans"], row["same_bits"]) == ("True", "0", "True"), row
        # With dropout too, by the mask of the reference. Bytes may differ by a level here and there.
        assert float(row["error"]) <= float(row["bound"]) < (2e-3 if row["op"] == "frames_to_patches" else 1e-4), row
    assert {"out", "grad weight", "grad positions", "grad token"} <= {r["tensor"] for r in found if r["op"] == OPS[0]}


def test_another_mask_in_the_backward_pass_is_a_failure():
    plant("mask", "slow")
    try:
        for case in (case for case in SIZES["tiny"] if isinstance(case, Attention)):
            found = list(correctness.check(case, 0.1, CPU, ["planted mask", "planted slow"]))
            wrong = {(row["backend"], row["tensor"]) for row in found if not row["passed"]}
            assert wrong == {("planted mask", "grad qkv")}, found
            assert all(row["passed"] for row in correctness.check(case, 0.0, CPU, ["planted mask"]))
    finally:
        uproot()


@pytest.mark.slow
def test_speed_of_all_operations(out):
    found = rows(out / "speed.csv")
    assert {row["op"] for row in found} == {*OPS, "roof"}
    has_gradient = {case.op: case.has_gradient for case in SIZES["tiny"]}
    for op in OPS:
        timed = {(r["provider"], r["mode"]) for r in found if r["op"] == op and r["ms"]}
        for mode in ("forward", "forward+backward")[: 1 + has_gradient[op]]:
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


@pytest.mark.slow
@interpreted
def test_resume_keeps_rows_and_a_spent_budget_is_named(tmp_path):
    arguments = ["--device", "cpu", "--tiny", "--only", "correctness", "--op", "norm", "--out", str(tmp_path)]
    assert check.main([*arguments, "--seconds", "1e-9"]) == 0
    assert "left out, no time: correctness norm layer p=0.1" in (tmp_path / "summary.txt").read_text()
    assert check.main(arguments) == 0
    before = (tmp_path / "correctness.csv").read_text()
    assert check.main([*arguments, "--resume"]) == 0
    assert (tmp_path / "correctness.csv").read_text() == before
    assert before.count("\n") > 10
    assert check.main(["--device", "cpu", "--tiny", "--only", "train", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "correctness.csv").read_text() == before  # another stage loses none


@pytest.mark.slow
@interpreted
def test_resume_checks_the_backends_that_a_killed_run_left_out(tmp_path):
    arguments = ["--device", "cpu", "--tiny", "--only", "correctness", "--op", "mlp", "--out", str(tmp_path)]
    assert check.main(arguments) == 0
    path = tmp_path / "correctness.csv"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in whole if ",triton_gemm," not in line))
    assert 1 < len(path.read_text().splitlines()) < len(whole)
    assert check.main([*arguments, "--resume"]) == 0
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(whole)


@pytest.mark.slow
@interpreted
def test_a_sweep_that_goes_on_tries_once_what_had_no_time(tmp_path):
    arguments = ["--device", "cpu", "--tiny", "--only", "sweep", "--op", "norm", "--out", str(tmp_path)]
    assert check.main([*arguments, "--seconds", "1e-9"]) == 0
    assert [row["note"] for row in rows(tmp_path / "sweep.csv")] == ["", NO_TIME]
    for _ in range(2):
        assert check.main([*arguments, "--resume"]) == 0
    tried = [row for row in rows(tmp_path / "sweep.csv") if row["candidate"] != COMMITTED]
    assert [bool(row["ms"]) for row in tried] == [False, True]
    assert tried[0]["candidate"] == tried[1]["candidate"]


@pytest.mark.slow
@interpreted
@pytest.mark.parametrize("fault", ["scaled", "nan", "unsteady", "raises"])
def test_a_wrong_kernel_is_reported(monkeypatch, tmp_path, fault):
    right, calls = norm.layer_norm, []

    def wrong(*args, backend, **options):
        total, normed = right(*args, backend=backend, **options)
        if backend == "torch":
            return total, normed
        calls.append(1)
        if fault == "raises":
            raise RuntimeError("out of resource")
        factor = {"scaled": 1.001, "nan": float("nan"), "unsteady": 1 + 1e-7 * len(calls)}[fault]
        return total, normed * factor

    monkeypatch.setattr(norm, "layer_norm", wrong)
    code = check.main(["--device", "cpu", "--tiny", "--only", "correctness", "--op", "norm", "--out", str(tmp_path)])
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


@pytest.mark.parametrize("case", SIZES["tiny"], ids=lambda case: f"{case.op}-{case.name}")
def test_baselines_in_pytorch_compute_the_same(case):
    """Ours, eager, compiled and gathered, against the plain backend: outputs and, on the same leaves, gradients."""
    problem = Problem(case, CPU)
    want = named(problem, problem.call(TORCH), problem.leaves)
    for name, baseline in case.providers(kernels=True, cuda=False).items():
        foreign = any(word in name for word in ("flash", "cudnn", "xformers")) or name in ("timm", "torch.nn")
        if foreign or not baseline.same or (name.startswith(OURS) and not INTERPRETED):
            continue
        call, leaves = baseline.make(problem, 0.0)
        found = named(problem, call, leaves)
        for key, value in found.items():
            if key in want:
                assert error(value, want[key]) < 1e-5, (name, key)
        parts = [found.get(f"grad {part}") for part in "qkv"]
        if parts[0] is not None:
            together = torch.stack(parts, 2).flatten(0, 1)
            assert error(together, want["grad qkv"]) < 1e-5, name


def test_a_provider_that_fails_is_a_row():
    class Broken(Operation):
        def prepare(self, provider):
            if provider == "torch":
                raise MemoryError("no room")
            return super().prepare(provider)

    subject = Broken(next(s for s in SIZES["tiny"] if s.op == "norm"), 0.0, CPU, kernels=False)
    subject.providers = ("auto", "torch")
    found = []
    session = Session(found.append, CPU, DevicePeaks(1e9, 1e9, 1e9), 0.0, rounds=1)
    session.run(subject, heavy=False)
    by = {(row["provider"], row.get("mode")): row for row in found}
    assert by["torch", None]["note"] == "MemoryError: no room"
    assert "ms" not in by["torch", None]
    assert by["auto", "forward"]["ms"] > 0
    assert by["auto again", "forward+backward"]["ms"] > 0
    late = Session(found.append, CPU, DevicePeaks(1e9, 1e9, 1e9), 0.0, until=time.monotonic() - 1)
    late.run(subject, heavy=False)
    assert late.left_out == ["norm/layer/float32/p0: auto, torch"]
    with pytest.raises(TooLong), limited(0.05):
        time.sleep(5)


def test_what_loses_the_device_has_its_row_first(monkeypatch):
    """A run that goes on in a new process must not come to it again."""

    class Broken(Operation):
        def prepare(self, provider):
            raise RuntimeError("illegal memory access")

    def gone(device):
        raise RuntimeError("the CUDA context is gone")

    monkeypatch.setattr(timing, "synchronize", gone)
    case, found = next(case for case in SIZES["tiny"] if case.op == "norm"), []
    session = Session(found.append, CPU, DevicePeaks(1e9, 1e9, 1e9), 0.0, rounds=1)
    with pytest.raises(DeviceLost, match="context is gone"):
        session.run(Broken(case, 0.0, CPU, kernels=False), heavy=False)
    assert [row["note"] for row in found] == ["RuntimeError: illegal memory access"]
    found.clear()
    with pytest.raises(DeviceLost):
        found.extend(row for row in correctness.check(case, 0.0, CPU, ["no such backend"]))
    assert [row["passed"] for row in found] == [False]


def test_the_plan_begins_with_the_targets_and_reaches_everything():
    work = plan(subjects(CPU, "gpu", steps=(), kernels=True))
    names = [(subject.name, heavy) for subject, heavy in work]
    assert len(set(names)) == len(names) == sum(4 if case.has_dropout else 2 for case in SIZES["gpu"])
    first = [number for number, (subject, _) in enumerate(work) if subject.case.priority == 1 and subject.dropout > 0]
    assert names[0] == ("patch_embed/video_768/bfloat16/p0.1", False)
    assert max(first) < len(work) / 3


def test_cases_are_those_of_the_models():
    base, by_name = preset("vatt-base"), {(case.op, case.name): case for case in SIZES["gpu"]}
    kept = {name: count.kept for name, count in tokens(base).items()}
    lengths = {case.name: case.length for case in SIZES["gpu"] if isinstance(case, Attention)}
    names = {"video": "video_785_h12", "audio": "audio_601_h12", "text": "text_17_h8"}
    assert {part: lengths[name] - 1 for part, name in names.items()} == kept
    video = forward_flops(base)["video"]
    assert by_name["patch_embed", "video_768"].cost(False).flops == 64 * video.patch
    layer = 64 * (video.total - video.patch) / base.video.num_layers
    assert by_name["block", "video_785_768"].cost(False).flops == layer


def test_costs_and_lower_bounds():
    case = Norm(name="n", rows=10, width=100)
    assert case.cost(False).bytes == 2 * (4 * 10 * 100 + 2 * 100)
    assert case.cost(True, 0.1).bytes - case.cost(True).bytes == 2 * 10 * 100  # x has a gradient of its own
    mlp = Mlp(name="m", rows=10, width=8).cost(False)
    assert Mlp(name="m", rows=10, width=8).cost(True).flops == 3 * mlp.flops == 3 * 4 * 10 * 8 * 32
    peaks = DevicePeaks(1e9, 1e6, 3e5)
    assert peaks.lower_bound_ms(mlp.flops, mlp.bytes, torch.float32) == 1e3 * 10 * 8 * 32 * 4 / 1e5
    nce = next(case for case in SIZES["gpu"] if case.op == "nce")
    kept = nce.cost(True, provider="open_clip").flops  # the matrix of logits, which ours makes again
    assert kept == nce.cost(True).flops * 3 / 4 == 3 * nce.cost(False).flops
    lines = list(lower_bounds())
    assert len(lines) == 2 + 2 * len(SIZES["gpu"])
    assert {line.count("|") for line in lines} == {7}
    assert EARLIER.matmul < 989e12


@pytest.mark.parametrize("space", SEARCH_SPACES, ids=lambda space: f"{space.op}-{space.kernel}")
@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm100"])
def test_search_spaces_are_entries_of_the_launch_tables(space, arch):
    """If this fails, a launch table of kernels/ has changed and bench/cases/ has not."""
    owner, value, key = module(space), candidates(space)[-1], key_on(space, arch)
    before = getattr(owner, space.table)
    assert set(space.cases) <= {case.name for case in SIZES["gpu"] if case.op == space.op}
    with replaced(space, arch, value):
        inside = getattr(owner, space.table)
        assert (inside() if callable(inside) else inside if key is None else inside[key]) == value
    assert getattr(owner, space.table) is before
    if not callable(before):
        entry = before if key is None else before[key]
        pairs = zip(_flat(value), _flat(entry), strict=True)
        assert all(None in pair or type(pair[0]) is type(pair[1]) for pair in pairs)  # None: no limit
        pasted = re.sub(r"^\w+( =|:) ", "", line(space, arch, value)).rstrip(",")
        scope = {type(value).__name__: type(value)}
        assert eval("{" + pasted + "}[key]" if key else pasted, {**scope, "key": key}) == value


def _flat(value):
    return list(value) if isinstance(value, tuple) else [value]


def test_targets():
    def verdicts(op, case, **providers):
        about = dict(op=op, case=case, dropout="0.1", mode="forward+backward", floor_share="0.72")
        times = {OURS: (1.0, 100.0), **providers}
        rows = [{**about, "provider": name, "ms": str(ms), "peak_mib": str(mib)} for name, (ms, mib) in times.items()]
        return [line.rpartition(": ")[2] for line in check.targets(rows)]

    patches = {TORCH: (4.5, 1.0), COMPILE: (1.9, 1.0), "gather + cuBLAS": (1.25, 1.0)}
    assert verdicts("patch_embed", "video_768", **patches) == [
        "met (4.50x of torch)",
        "MISSED (1.90x of torch.compile)",
        "met (1.25x of gather + cuBLAS)",
        "met (72%)",
    ]
    others = {"triton again": (0.9, 1.0), TORCH: (0.5, 1.0), COMPILE: (0.6, 1.0), "sdpa_cudnn apart": (1.1, 1.0)}
    assert verdicts("attention", "video_785_h12", **others) == ["met (1.10x of sdpa_cudnn apart)"]
    losses = {TORCH: (2.5, 1900.0), "torch in slices": (3.0, 200.0), "open_clip": (2.2, 2100.0)}
    assert verdicts("nce", "mil_4096x5_f32", **losses) == ["met (2.20x of open_clip)", "MISSED (19.00x of torch)"]
    same = {"triton+sdpa": (2.0, 1.0), "torch+sdpa": (3.0, 1.0)}
    found = verdicts("block", "video_785_768", **same)
    assert found == ["not measured", "not measured", "MISSED (1.50x of torch+sdpa)", "not measured"]
