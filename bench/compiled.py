"""Compiles every kernel for A100, H100 and B200 as the models would launch it, and checks its resources. No GPU needed.

``python -m bench.compiled [--arch sm_90 ...] [--op NAME ...] [--out bench/results/compiled.csv]``

Exits with 1 if a kernel spills registers, asks for more memory than the chip has, or loses what its case expects
(matrix instructions, wide accesses). With ``--out``, rows of operations and chips that were not asked for stay.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.compiled_cases import ARCHITECTURES, CASES, Case, Expect
from bench.compiled_resources import WIDE, CaseError, Row, compile_case
from vatt.kernels.runtime import interpreting, triton_installed

RESULTS = Path(__file__).parent / "results" / "compiled.csv"
COLUMNS = [field.name for field in fields(Row)]


def problems(row: Row, expect: Expect) -> list[str]:
    """What is wrong with a compiled kernel; empty if nothing is."""
    found = []
    if row.spill_stores or row.spill_loads:
        found.append(f"spills: {row.spill_stores} bytes of stores, {row.spill_loads} bytes of loads")
    if row.shared > row.shared_limit:
        found.append(f"shared memory: {row.shared} bytes, the chip has {row.shared_limit}")
    if row.tensor_memory > 512:
        found.append(f"tensor memory: {row.tensor_memory} columns, the chip has 512")
    if row.wgmma_serialized:
        found.append("ptxas serialized the wgmma instructions")
    allowed = expect.matrix[row.arch] if expect.matrix is not None else ("none",)
    if not set(row.matrix.split("+")) <= set(allowed):
        found.append(f"matrix instruction: {row.matrix}, expected {' or '.join(allowed)}")
    if _wide_share(row.accesses) < expect.wide:
        found.append(f"narrow accesses of global memory (bytes:count): {row.accesses}")
    return [f"{row.op} {row.case} {row.kernel} {row.arch}: {text}" for text in found]


def _wide_share(accesses: str) -> float:
    """The share of the bytes that accesses of 16 bytes move."""
    counts = [(int(width), int(count)) for width, _, count in (part.partition(":") for part in accesses.split())]
    moved = sum(width * count for width, count in counts)
    return sum(width * count for width, count in counts if width >= WIDE) / moved if moved else 0.0


def check(rows: Iterable[Row], cases: Iterable[Case] = CASES) -> list[str]:
    """The problems of all rows, by the expectations of their cases."""
    expect = {(case.op, case.name): case.expect for case in cases}
    return [text for row in rows for text in problems(row, expect[row.op, row.case][row.kernel])]


def read(path: Path) -> list[Row]:
    """The rows of a file that `write` wrote.

    Raises:
        ValueError: other columns than those of `Row`.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: expected the columns {COLUMNS}, got {reader.fieldnames}")
        return [_parsed(record) for record in reader]


def _parsed(record: dict[str, str]) -> Row:
    values: dict[str, Any] = dict(record)
    return Row(**values | {field.name: int(record[field.name]) for field in fields(Row) if field.type == "int"})


def write(path: Path, rows: Iterable[Row], cases: Sequence[Case] = CASES) -> None:
    """Writes CSV in the order of the cases, their expectations and the architectures."""
    order = [(c.op, c.name, kernel, arch) for c in cases for kernel in c.expect for arch in ARCHITECTURES]
    rank = {key: number for number, key in enumerate(order)}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: rank[row.op, row.case, row.kernel, row.arch]):
            writer.writerow(asdict(row))


def merged(path: Path, rows: list[Row], ops: Sequence[str], archs: Sequence[str]) -> list[Row]:
    """``rows``, and those of the file that were not compiled anew and still belong to a case."""
    known = {(case.op, case.name, kernel) for case in CASES for kernel in case.expect}
    old = read(path) if path.exists() else []
    kept = [row for row in old if not (row.op in ops and row.arch in archs)]
    return rows + [row for row in kept if (row.op, row.case, row.kernel) in known]


def _task(number: int, arch: str) -> list[Row] | str:
    try:
        return compile_case(CASES[number], arch)
    except CaseError as error:
        return str(error)


def compile_all(tasks: Sequence[tuple[int, str]]) -> tuple[list[Row], list[str]]:
    """Compiles pairs (index into `CASES`, architecture) on all cores.

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
    table = Table("case", "kernel", "arch", "regs", "spills", "stack", "shared", "warps", "stages", "threads", "matrix")
    for name in ("accesses", "occupancy", "launch"):
        table.add_column(name)
    for row in rows:
        spills, shared = f"{row.spill_stores}+{row.spill_loads}", f"{row.shared}/{row.shared_limit}"
        sizes = row.num_warps, row.num_stages, row.threads, row.matrix, row.accesses, f"{row.occupancy_warps}/64"
        cells = f"{row.op} {row.case}", row.kernel, row.arch, row.registers, spills, row.stack, shared, *sizes
        table.add_row(*map(str, cells), row.launch)
    console = Console()
    (console if console.is_terminal else Console(width=240)).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compiled", description=__doc__)
    ops = list(dict.fromkeys(case.op for case in CASES))
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--op", nargs="+", choices=ops, default=ops)
    parser.add_argument("--out", type=Path, help="also write the rows as CSV")
    options = parser.parse_args(arguments)
    if interpreting():
        parser.exit(2, "bench.compiled: TRITON_INTERPRET is set, so there is nothing to compile: unset it\n")
    if not triton_installed():
        parser.exit(2, "bench.compiled: Triton is not installed (pip install 'triton>=3.6')\n")
    chosen = [number for number, case in enumerate(CASES) if case.op in options.op]
    rows, wrong = compile_all([(number, arch) for number in chosen for arch in options.arch])
    show(rows)
    if options.out:
        write(options.out, merged(options.out, rows, options.op, options.arch))
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
