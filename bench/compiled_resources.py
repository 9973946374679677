"""Compiles what a case launches, without a GPU, and reads the resources from the PTX and from the report of ptxas."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.compiled_cases import Case
from vatt.kernels.runtime import interpreting, recording

# CUDA C++ programming guide, table of technical specifications: bytes a block can have, bytes of a multiprocessor.
SHARED = {"sm_80": (166912, 167936), "sm_90": (232448, 233472), "sm_100": (232448, 233472)}
RESERVED_SHARED = 1024  # bytes that the system takes from each block
MATRIX = {"tcgen05": r"\btcgen05\.mma\b", "wgmma": r"\bwgmma\.mma_async\b", "mma": r"\bmma\.sync\b"}
WIDE = 16  # bytes of the widest access that all three chips have

_ACCESS = re.compile(r"\b(?:ld|st)\.global(?:\.[a-zA-Z]\w*(?:::\w+)*)*?(?:\.v(\d))?\.[busf](\d+)\b")
_ASYNC = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\S*\s+\[[^]]*\],\s*\[[^]]*\],\s*(0x[0-9a-f]+|\d+)")
_BULK = re.compile(r"\bcp\.async\.bulk\.(?:tensor|shared|global)|\bcp\.reduce\.async\.bulk\b")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")

_compiled: dict[str, str] = {}  # report of ptxas by the hash of the kernel; the JIT compiles equal launches once


class CaseError(Exception):
    """A case that cannot be compiled, or that launches other kernels than it says."""


@dataclass(frozen=True)
class Row:
    """One kernel of one case on one architecture; the fields are the columns of compiled.csv.

    ``shared`` in bytes a block, ``tensor_memory`` in columns (512 on sm_100), ``matrix`` joins the instructions found
    with "+", ``accesses`` counts the accesses of global memory in the code by their bytes a thread, and
    ``occupancy_warps`` is an upper bound for the warps of a multiprocessor (64), from registers and memory.
    """

    op: str
    case: str
    kernel: str
    arch: str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    shared_limit: int
    tensor_memory: int
    num_warps: int
    num_stages: int
    threads: int
    matrix: str
    wgmma_serialized: int
    widest_access: int
    wide_accesses: int
    accesses: str
    occupancy_warps: int
    triton: str
    launch: str


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


def launches(case: Case, arch: str) -> list[Launch]:
    """What the case launches on ``arch``; nothing is compiled.

    Raises:
        CaseError: a kernel without an expectation, or an expectation without its kernel.
    """
    found: list[Launch] = []
    with recording(lambda *launch: found.append(Launch(*launch)), arch=arch.replace("_", "")):
        case.run()
    names = {launch.name for launch in found}
    if names != set(case.expect):
        unchecked, absent = sorted(names - set(case.expect)), sorted(set(case.expect) - names)
        raise CaseError(f"{case.op} {case.name}: no expectation for {unchecked}, no launch of {absent}")
    return found


def compile_case(case: Case, arch: str) -> list[Row]:
    """Compiles every launch of the case for ``arch``; one row each.

    Raises:
        CaseError: as `launches`, or Triton or ptxas refuse a kernel.
    """
    if interpreting():
        raise CaseError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled, unset it")
    rows: list[Row] = []
    for launch in launches(case, arch):
        try:
            compiled, report = _compile(launch, arch)
            row = _row(case, launch, arch, compiled, report)
        except Exception as error:  # any, for the compiler raises what it likes: say which kernel it was
            raise CaseError(f"{case.op} {case.name} {launch.name} {arch}: {type(error).__name__}: {error}") from error
        if row not in rows:
            rows.append(row)
    return rows


class _Driver:
    """What Triton's JIT asks of a GPU before it compiles. The JIT keeps kernels by device, so each chip is its own."""

    def __init__(self, arch: str) -> None:
        self.capability = int(arch.removeprefix("sm_"))

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def _pretending(arch: str) -> Iterator[None]:
    """Triton sees a GPU of ``arch``, ignores its cache on disk and prints the report of its own run of ptxas."""
    from triton import knobs
    from triton.runtime import driver

    before = driver._active
    driver.set_active(_Driver(arch))
    try:
        with knobs.nvidia.scope(), knobs.compilation.scope():
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.always_compile = True
            yield
    finally:
        driver._active = before


def _compile(launch: Launch, arch: str) -> tuple[Any, str]:
    with _pretending(arch), redirect_stdout(io.StringIO()) as printed:
        compiled = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.meta)
    return compiled, _compiled.setdefault(compiled.hash, printed.getvalue())


def _row(case: Case, launch: Launch, arch: str, compiled: Any, report: str) -> Row:
    import triton

    ptx, metadata = compiled.asm["ptx"], compiled.metadata
    frames, registers = _FRAME.findall(report), re.findall(r"Used (\d+) registers", report)
    if not frames or not registers:
        raise CaseError(f"Triton printed no report of ptxas, but {report!r}")
    used, widths = max(map(int, registers)), access_widths(ptx)
    size = re.search(r"\.(?:req|max)ntid\s+([\d, ]+)", ptx)
    threads = math.prod(map(int, size[1].split(","))) if size else 32 * metadata.num_warps
    return Row(
        op=case.op,
        case=case.name,
        kernel=launch.name,
        arch=arch,
        registers=used,
        spill_stores=sum(int(stores) for _, stores, _ in frames),
        spill_loads=sum(int(loads) for _, _, loads in frames),
        stack=max(int(stack) for stack, _, _ in frames),
        shared=metadata.shared,
        shared_limit=SHARED[arch][0],
        tensor_memory=metadata.tmem_size,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        threads=threads,
        matrix="+".join(name for name, pattern in MATRIX.items() if re.search(pattern, ptx)) or "none",
        wgmma_serialized=int("wgmma.mma_async instructions are serialized" in report),
        widest_access=max(widths, default=0),
        wide_accesses=sum(count for width, count in widths.items() if width >= WIDE),
        accesses=" ".join(f"{width}:{widths[width]}" for width in sorted(widths, reverse=True)),
        occupancy_warps=occupancy(used, threads, metadata.shared, metadata.tmem_size, arch),
        triton=triton.__version__,
        launch=launch.constants,
    )


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
