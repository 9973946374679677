"""Where Triton kernels can run, why not elsewhere, and the one door through which every launch goes.

Launches can be recorded: `python -m bench compiled` records what an operation launches at real shapes (on tensors
without memory) and compiles exactly that, for several GPU generations, on a machine that has none. Nothing here runs
before an operation is called, and what every call asks is cached: on a CPU an operation takes only a few microseconds.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .registry import Call

TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETER = "interpreter"

Recorder = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]

_recorder: Recorder | None = None
_recorded_arch: str | None = None

# What does not change while a process runs. torch.compile traces what asks for it: it warns of functools.cache, and a
# dict that the traced call fills is a guard that fails at the next call. So both are left alone while it traces.
_installed: dict[str, bool] = {}  # by package
_capabilities: dict[int, tuple[int, int]] = {}  # by index of the device


def refuse_triton(call: Call) -> list[str]:
    """The reasons why Triton kernels cannot run ``call``, shared by all operations."""
    reasons = [] if call.dtype.is_floating_point else [f"needs a floating-point type, got {call.dtype}"]
    if call.dtype.is_floating_point and call.dtype not in TRITON_TYPES:
        reasons.append(f"has float32, bfloat16 and float16, got {call.dtype}")
    if not triton_installed():
        reasons.append("Triton is not installed (pip install 'triton>=3.6')")
    if call.device.type == "cuda":
        if torch.version.hip is not None:
            reasons.append("is written and tested for NVIDIA GPUs alone")
        elif not torch.cuda.is_available():
            reasons.append("finds no CUDA device")
        elif capability(call.device) < (8, 0):
            reasons.append("needs compute capability 8.0 (A100) or newer")
    elif call.device.type in ("cpu", "meta"):
        reasons += _refuse_cpu(call)
    else:
        reasons.append(f"has no kernels for {call.device.type!r} devices")
    return reasons


def _refuse_cpu(call: Call) -> list[str]:
    if not interpreting():
        return ["runs on a CUDA device, or with TRITON_INTERPRET=1 in Triton's interpreter"]
    if not call.named:
        return ["Triton's interpreter is for tests: name the backend to use it"]
    if call.dtype == torch.bfloat16:
        return ["Triton's interpreter computes wrongly in bfloat16"]
    return []


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, operations on ``device`` keep their types."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def interpreting() -> bool:
    """Whether Triton interprets kernels: its own environment variable TRITON_INTERPRET."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def triton_installed() -> bool:
    """Whether Triton can be imported."""
    return installed("triton")


def installed(package: str) -> bool:
    """Whether ``package`` can be imported. Searches the disk, once per process."""
    if torch.compiler.is_compiling():
        return _search(package)
    if package not in _installed:
        _installed[package] = _search(package)
    return _installed[package]


def _search(package: str) -> bool:
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def device_arch(device: torch.device) -> str:
    """The row of the launch tables for ``device``: "sm90" (Hopper), "sm100" (data-centre Blackwell), "sm80" for all
    others (Ampere, Ada, and the Blackwell of workstations, which has Ada's shared memory and matrix instructions), or
    "interpreter" for the CPU, where Triton's interpreter runs the kernels on small blocks."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return INTERPRETER
    return {9: "sm90", 10: "sm100"}.get(capability(device)[0], "sm80")


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU, such as (9, 0)."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if torch.compiler.is_compiling():
        return torch.cuda.get_device_capability(index)
    if index not in _capabilities:
        _capabilities[index] = torch.cuda.get_device_capability(index)
    return _capabilities[index]


def tensor_arch(x: torch.Tensor) -> str:
    """`device_arch` of the device of ``x``, or the arch that launches are recorded for."""
    return _recorded_arch or device_arch(x.device)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """Runs a Triton kernel on ``grid``; nothing to do for an empty one."""
    if math.prod(grid) == 0:
        return
    meta["enable_fp_fusion"] = True  # multiply-add in one rounding; Triton's own default changes between versions
    if _recorder is not None:
        _recorder(kernel, grid, args, meta)
        return
    device = next(value.device for value in args if isinstance(value, torch.Tensor))
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*args, **meta)


@contextmanager
def recording(recorder: Recorder, arch: str) -> Iterator[None]:
    """Inside, launches go to ``recorder`` (kernel, grid, arguments, meta-parameters) as on a GPU of ``arch``."""
    global _recorder, _recorded_arch
    before = _recorder, _recorded_arch
    _recorder, _recorded_arch = recorder, arch
    try:
        yield
    finally:
        _recorder, _recorded_arch = before


def interpreter_block(size: int, large: int = 64) -> int:
    """A block size for the interpreter, which pays per operation, not per element: small along short axes, so that
    loops over several blocks are tested too, and ``large`` along long ones."""
    return 16 if size <= 64 else large
