"""Compiles every kernel for A100, H100 and B200 as the models would launch it, and checks its resources. No GPU needed.

``python -m bench compiled [--arch sm_90 ...] [--op NAME ...] [--out bench/results/compiled.csv]``

The resources are read from the PTX and from the report of ptxas. Exits with 1 if a kernel spills registers, asks for
more memory than the chip has, or loses what its case expects (matrix instructions, wide accesses). With ``--out``, rows
of operations and chips that were not asked for stay.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.cases import COMPILATIONS
from bench.cases.base import ARCHITECTURES, Compilation
from vatt import results
from vatt.errors import UserError
from vatt.files import TREE
from vatt.kernels.runtime import interpreting, recording, triton_installed

RESULTS = TREE / "bench" / "results" / "compiled.csv"

# CUDA C++ programming guide, table of technical specifications: bytes a block can have, bytes of a multiprocessor.
SHARED = {"sm_80": (166912, 167936), "sm_90": (232448, 233472), "sm_100": (232448, 233472)}
RESERVED_SHARED = 1024  # bytes that the system takes from each block
MATRIX = {"tcgen05": r"\btcgen05\.mma\b", "wgmma": r"\bwgmma\.mma_async\b", "mma": r"\bmma\.sync\b"}
WIDE = 16  # bytes of the widest access that all three chips have

_ACCESS = re.compile(r"\b(?:ld|st)\.global(?:\.[a-zA-Z]\w*(?:::\w+)*)*?(?:\.v(\d))?\.[busf](\d+)\b")
_ASYNC = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\S*\s+\[[^]]*\],\s*\[[^]]*\],\s*(0x[0-9a-f]+|\d+)")
_BULK = re.compile(r"\bcp\.async\.bulk\.(?:tensor|shared|global)|\bcp\.reduce\.async\.bulk\b")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")

# A matrix product as Triton gives it to mma.sync: its terms, and how many of them a thread holds side by side.
_PRODUCT = re.compile(r"tt\.dot .*?tensor<\d+x(\d+)x\w+, #ttg\.dot_op<\{opIdx = 0, parent = #\w+, kWidth = (\d+)\}>>")

_reports: dict[str, str] = {}  # of ptxas by the hash of the kernel; the JIT compiles equal launches once


class CompilationError(UserError):
    """A case that cannot be compiled, or that launches other kernels than it says."""


_COLUMNS = (
    "op case kernel arch registers spill_stores spill_loads stack shared shared_limit tensor_memory num_warps "
    "num_stages threads matrix wgmma_serialized widest_access wide_accesses accesses occupancy_warps triton launch"
)
COLUMNS = tuple(_COLUMNS.split())
FILE_ONLY = ("shared_limit", "tensor_memory", "wgmma_serialized", "widest_access", "wide_accesses", "triton")


class Row(SimpleNamespace):
    """One kernel of one case on one architecture: COLUMNS. ``shared`` in bytes a block, ``tensor_memory`` in columns
    (512 on sm_100), ``matrix`` joins the instructions found with "+", ``accesses`` counts the accesses of global memory
    in the code by their bytes a thread, ``occupancy_warps``: at most so many warps fit on a multiprocessor (64)."""


class Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    @property
    def constants(self) -> str:
        """The launch parameters in short; the columns have warps and stages already."""
        shown = {k: v for k, v in self.meta.items() if k not in ("num_warps", "num_stages", "enable_fp_fusion")}
        return " ".join(f"{k}={int(v) if isinstance(v, bool) else v}" for k, v in shown.items())


def launches(case: Compilation, arch: str) -> list[Launch]:
    """What the case launches on ``arch``; nothing is compiled.

    Raises:
        CompilationError: a kernel without an expectation, or an expectation without its kernel.
    """
    found: list[Launch] = []
    with recording(lambda *launch: found.append(Launch(*launch)), arch=arch.replace("_", "")):
        case.run()
    names = {launch.name for launch in found}
    if names != set(case.expect):
        unchecked, absent = sorted(names - set(case.expect)), sorted(set(case.expect) - names)
        raise CompilationError(f"{case.op} {case.name}: no expectation for {unchecked}, no launch of {absent}")
    return found


def compile_case(case: Compilation, arch: str) -> list[Row]:
    """Compiles every launch of the case for ``arch``; one row each. Raises CompilationError, also where Triton or ptxas
    refuse a kernel."""
    _refuse()
    rows: list[Row] = []
    for launch in launches(case, arch):
        try:
            row = _row(case, launch, arch, *_compile(launch, arch))
        except Exception as error:  # any, for the compiler raises what it likes: say which kernel it was
            what = f"{case.op} {case.name} {launch.name} {arch}"
            raise CompilationError(f"{what}: {type(error).__name__}: {error}") from error
        rows += [] if row in rows else [row]
    return rows


def _refuse() -> None:
    if interpreting():
        raise CompilationError("TRITON_INTERPRET is set, so there is nothing to compile: unset it")
    if not triton_installed():
        raise CompilationError("Triton is not installed (pip install 'triton>=3.6')")


@contextmanager
def _pretending(arch: str) -> Iterator[None]:
    """Triton sees a GPU of ``arch``, ignores its cache on disk and prints the report of its own run of ptxas."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    capability = int(arch.removeprefix("sm_"))
    # What Triton's JIT asks of a GPU before it compiles. The JIT keeps kernels by device, so each chip is its own.
    gpu = SimpleNamespace(
        get_current_device=lambda: capability,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    before = driver._active
    driver.set_active(gpu)
    try:
        with knobs.nvidia.scope(), knobs.compilation.scope():
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.always_compile = True
            yield
    finally:
        driver._active = before


def _compile(launch: Launch, arch: str) -> tuple[Any, str]:
    """The compiled kernel, and the report of ptxas."""
    with _pretending(arch), redirect_stdout(io.StringIO()) as printed:
        compiled = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.meta)
    return compiled, _reports.setdefault(compiled.hash, printed.getvalue())


def _row(case: Compilation, launch: Launch, arch: str, compiled: Any, report: str) -> Row:
    import triton

    if short := short_products(compiled.asm["ttgir"]):
        raise CompilationError(f"wrong products of {', '.join(short)}; take more terms a step")
    ptx, meta = compiled.asm["ptx"], compiled.metadata
    frames = [tuple(map(int, found)) for found in _FRAME.findall(report)]
    registers = [int(found) for found in re.findall(r"Used (\d+) registers", report)]
    if not frames or not registers:
        raise CompilationError(f"Triton printed no report of ptxas, but {report!r}")
    widths = access_widths(ptx)
    size = re.search(r"\.(?:req|max)ntid\s+([\d, ]+)", ptx)
    threads = math.prod(map(int, size[1].split(","))) if size else 32 * meta.num_warps
    return Row(
        **dict(op=case.op, case=case.name, kernel=launch.name, arch=arch, triton=triton.__version__),
        **dict(registers=max(registers), stack=max(stack for stack, _, _ in frames), threads=threads),
        spill_stores=sum(stores for _, stores, _ in frames),
        spill_loads=sum(loads for _, _, loads in frames),
        **dict(shared=meta.shared, shared_limit=SHARED[arch][0], tensor_memory=meta.tmem_size),
        **dict(num_warps=meta.num_warps, num_stages=meta.num_stages, launch=launch.constants),
        matrix="+".join(name for name, pattern in MATRIX.items() if re.search(pattern, ptx)) or "none",
        wgmma_serialized=int("wgmma.mma_async instructions are serialized" in report),
        widest_access=max(widths, default=0),
        wide_accesses=sum(count for width, count in widths.items() if width >= WIDE),
        accesses=" ".join(f"{width}:{widths[width]}" for width in sorted(widths, reverse=True)),
        occupancy_warps=occupancy(max(registers), threads, meta.shared, meta.tmem_size, arch),
    )


def short_products(ttgir: str) -> list[str]:
    """Matrix products that Triton 3.6 and 3.7 compute wrongly: four threads hold their terms, each ``kWidth`` side by
    side (8 in half precision where an 8-bit tensor is among what an operand depends on), and there are fewer terms than
    that. Measured on an H200: 16 terms, in the backward pass of masked attention with dropout, relative error 1.1."""
    found = {(int(terms), int(width)) for terms, width in _PRODUCT.findall(ttgir)}
    return [f"{terms} terms in fours of {width}" for terms, width in sorted(found) if terms < 4 * width]


def access_widths(ptx: str) -> Counter[int]:
    """How many instructions access global memory, by their bytes a thread; bulk copies (TMA) count as 16."""
    direct = [int(vector or 1) * int(bits) // 8 for vector, bits in _ACCESS.findall(ptx)]
    return Counter(direct + [int(size, 0) for size in _ASYNC.findall(ptx)] + [WIDE] * len(_BULK.findall(ptx)))


def occupancy(registers: int, threads: int, shared: int, tensor_memory: int, arch: str) -> int:
    """Warps of a multiprocessor that registers (65536, given to warps in units of 256), shared memory (in units of 128
    bytes), tensor memory and the hardware's 64 warps and 32 blocks leave room for; 0 if not even one block fits."""
    warps = math.ceil(threads / 32)
    per_warp = 256 * math.ceil(registers * 32 / 256)
    per_block = 128 * math.ceil((shared + RESERVED_SHARED) / 128)
    blocks = min(4 * (16384 // per_warp) // warps, SHARED[arch][1] // per_block, 64 // warps, 32)
    return warps * min(blocks, 512 // tensor_memory if tensor_memory else blocks)


def check(rows: Iterable[Row], cases: Iterable[Compilation] = COMPILATIONS) -> list[str]:
    """What is wrong with the compiled kernels, by the expectations of their cases; empty if nothing is."""
    known = {(case.op, case.name): case.expect for case in cases}
    found = []
    for row in rows:
        expect = known[row.op, row.case][row.kernel]
        allowed = expect.matrix[row.arch] if expect.matrix is not None else ("none",)
        widths = [[int(number) for number in part.split(":")] for part in row.accesses.split()]
        moved, wide = (sum(width * count for width, count in widths if width >= least) for least in (0, WIDE))
        spilled, used = row.spill_stores or row.spill_loads, set(row.matrix.split("+"))
        faults = {
            f"spills: {row.spill_stores} bytes of stores, {row.spill_loads} bytes of loads": spilled,
            f"shared memory: {row.shared} bytes, the chip has {row.shared_limit}": row.shared > row.shared_limit,
            f"tensor memory: {row.tensor_memory} columns, the chip has 512": row.tensor_memory > 512,
            "ptxas serialized the wgmma instructions": row.wgmma_serialized,
            f"matrix instruction: {row.matrix}, expected {' or '.join(allowed)}": not used <= set(allowed),
            f"narrow accesses of global memory (bytes:count): {row.accesses}": wide < expect.wide * max(moved, 1),
        }
        found += [f"{row.op} {row.case} {row.kernel} {row.arch}: {text}" for text, wrong in faults.items() if wrong]
    return found


def read(path: Path) -> list[Row]:
    """The rows of a results file. Raises ResultsError for another file."""
    rows = results.read(path, COLUMNS)
    return [Row(**{name: int(value) if value.isdigit() else value for name, value in row.items()}) for row in rows]


def update(path: Path, rows: Sequence[Row], ops: Sequence[str], archs: Sequence[str]) -> None:
    """Writes ``rows``, and those of the file that were not compiled anew and still belong to a case, in the order of
    the cases, their expectations and the architectures."""
    order = [(c.op, c.name, kernel, arch) for c in COMPILATIONS for kernel in c.expect for arch in ARCHITECTURES]
    rank = {key: number for number, key in enumerate(order)}
    kept = [row for row in (read(path) if path.exists() else []) if not (row.op in ops and row.arch in archs)]
    keyed = [((row.op, row.case, row.kernel, row.arch), row) for row in (*rows, *kept)]
    path.unlink(missing_ok=True)
    ranked = sorted((rank[key], number) for number, (key, _) in enumerate(keyed) if key in rank)
    results.append(path, [vars(keyed[number][1]) for _, number in ranked], COLUMNS)


def _task(number: int, arch: str) -> list[Row] | str:
    try:
        return compile_case(COMPILATIONS[number], arch)
    except CompilationError as error:
        return str(error)


def compile_all(tasks: Sequence[tuple[int, str]]) -> tuple[list[Row], list[str]]:
    """Compiles pairs (index into `COMPILATIONS`, architecture) on all cores.

    Returns:
        The rows, and what is wrong: the problems of the rows, and the reasons of the cases that gave none.
    """
    workers = min(len(tasks), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(_task, *zip(*tasks, strict=True)))
    rows = [row for result in results if not isinstance(result, str) for row in result]
    return rows, [result for result in results if isinstance(result, str)] + check(rows)


def show(rows: Iterable[Row]) -> None:
    """Prints the rows as a table, without the columns that only the file has."""
    names = [name for name in COLUMNS if name not in FILE_ONLY]
    table = Table(*names)
    for row in rows:
        table.add_row(*(str(getattr(row, name)) for name in names))
    console = Console()
    (console if console.is_terminal else Console(width=240)).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compiled", description=__doc__)
    ops = list(dict.fromkeys(case.op for case in COMPILATIONS))
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--op", nargs="+", choices=ops, default=ops)
    parser.add_argument("--out", type=Path, help="also write the rows as CSV")
    options = parser.parse_args(arguments)
    _refuse()
    if options.out:
        results.append(options.out, [], COLUMNS)  # a file that is none is told now, not after the compilation
    selected = [number for number, case in enumerate(COMPILATIONS) if case.op in options.op]
    rows, wrong = compile_all([(number, arch) for number in selected for arch in options.arch])
    show(rows)
    if options.out:
        update(options.out, rows, options.op, options.arch)
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0
