"""Every kernel compiled for three GPUs without one: no spills, memory that fits, the expected instructions."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.cases import COMPILATIONS
from bench.cases.base import ARCHITECTURES
from bench.checks.compiled import RESULTS, access_widths, check, occupancy, read, short_products
from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
# The first case of each operation for sm_90, the first and the last of them for the other two; and all launches.
# In one process, whose start takes as long as some kernels, and with the faults of triton_spilling.py.
FRESH = """
import json
from bench.cases import COMPILATIONS
from bench.cases.base import ARCHITECTURES
from bench.checks.compiled import CompilationError, check, compile_case, launches
from tests.kernels.triton_spilling import faults
firsts = list({case.op: number for number, case in reversed(list(enumerate(COMPILATIONS)))}.values())[::-1]
tasks = [(number, "sm_90") for number in firsts] + [(firsts[0], "sm_80"), (firsts[-1], "sm_100")]
rows, wrong = [], []
for number, arch in tasks:
    try:
        rows += compile_case(COMPILATIONS[number], arch)
    except CompilationError as error:
        wrong.append(str(error))
wrong += check(rows)
launched = [
    (case.op, case.name, launch.name, arch, launch.constants)
    for case in COMPILATIONS for arch in ARCHITECTURES for launch in launches(case, arch)
]
compiled = [(COMPILATIONS[number].op, COMPILATIONS[number].name, arch) for number, arch in tasks]
rows = [vars(row) for row in rows]
print(json.dumps(dict(tasks=compiled, rows=rows, wrong=wrong, launched=launched, faults=faults())))
"""


@pytest.fixture(scope="module")
def fresh() -> Any:
    """What a process prints that compiles kernels; other tests interpret theirs in this process."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        pytest.skip("Triton is not installed")
    if not (Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "ptxas").exists():
        pytest.skip("this Triton comes without ptxas")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-c", FRESH]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_one_case_of_each_operation_compiles(fresh):
    assert not fresh["wrong"], "\n".join(fresh["wrong"])
    expect = {(case.op, case.name): case.expect for case in COMPILATIONS}
    wanted = {(op, case, kernel, arch) for op, case, arch in fresh["tasks"] for kernel in expect[op, case]}
    assert {(row["op"], row["case"], row["kernel"], row["arch"]) for row in fresh["rows"]} == wanted
    assert {row["arch"] for row in fresh["rows"]} == set(ARCHITECTURES)
    for row in fresh["rows"]:
        assert 0 < row["registers"] <= 255
        assert row["occupancy_warps"] > 0


def test_the_committed_results_cover_every_kernel_and_are_sound():
    rows = read(RESULTS)
    wanted = {(c.op, c.name, kernel, arch) for c in COMPILATIONS for kernel in c.expect for arch in ARCHITECTURES}
    assert {(row.op, row.case, row.kernel, row.arch) for row in rows} == wanted, "python -m bench compiled --out ..."
    assert not check(rows)
    assert len({row.triton for row in rows}) == 1


@pytest.mark.slow
def test_the_committed_results_are_of_what_is_launched_now(fresh):
    committed = {(row.op, row.case, row.kernel, row.arch, row.launch) for row in read(RESULTS)}
    assert committed == set(map(tuple, fresh["launched"])), "python -m bench compiled --out bench/results/compiled.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("spilling", "spills: "),
        ("narrow", "narrow accesses"),
        ("unexpected", "no expectation for ['divide']"),
        ("replaced", "matrix instruction: none, expected wgmma"),
        ("crowded", "shared memory: "),
    ],
)
def test_faults_are_found(fresh, case, message):
    found = fresh["faults"][case]
    assert any(message in text for text in found), found


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sound", "matrix"])
def test_nothing_is_found_in_sound_kernels(fresh, case):
    assert not fresh["faults"][case]


def test_interpreted_kernels_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["compiled"]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


def test_products_that_triton_sums_wrongly_are_found():
    """As they stood in the code of attention over sentences, with 16 and with 32 tokens a step."""
    code = """
      %s = tt.dot %a, %b, %c : tensor<32x64xbf16, #ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 2}>> * ...
      %v = tt.dot %d, %x, %g : tensor<32xNxbf16, #ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 8}>> * ...
    """
    assert short_products(code.replace("N", "32")) == []
    assert short_products(code.replace("N", "16")) == ["16 terms in fours of 8"]


def test_accesses_are_read_from_the_code():
    code = """
        @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
        ld.global.L1::evict_first.L2::cache_hint.v2.b64 { %rd1, %rd2 }, [ %rd3 + 0 ], %rd4;
        ld.global.nc.b16 { %rs1 }, [ %rd1 + 0 ];
        st.global.v2.b32 [ %rd1 + 0 ], { %r1, %r2 };
        ld.shared.v4.b32 { %r1, %r2, %r3, %r4 }, [ %r5 + 0 ];
        cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
        cp.async.ca.shared.global.L2::128B [ %r1 ], [ %rd1 ], 4;
        cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2, %r3}], [%r4];
        cp.async.bulk.commit_group;
    """
    assert access_widths(code) == {16: 4, 8: 1, 4: 1, 2: 1}


@pytest.mark.parametrize(
    ("resources", "warps"),
    [
        ((32, 128, 0, 0, "sm_90"), 64),  # nothing but the hardware's own limit
        ((128, 256, 0, 0, "sm_90"), 16),  # registers: 512 threads of 128
        ((129, 128, 0, 0, "sm_80"), 12),  # rounded up to 136
        ((64, 128, 100 * 1024, 0, "sm_80"), 4),  # shared memory: 164 KiB in all
        ((64, 128, 100 * 1024, 0, "sm_90"), 8),  # 228 KiB
        ((64, 128, 0, 256, "sm_100"), 8),  # tensor memory: half of the columns
        ((32, 32, 0, 0, "sm_90"), 32),  # blocks of one warp: 32 of them
        ((255, 1024, 0, 0, "sm_90"), 0),  # does not start
    ],
)
def test_occupancy(resources, warps):
    assert occupancy(*resources) == warps
