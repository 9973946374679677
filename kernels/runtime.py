"""Where Triton kernels can run, and why not elsewhere. Nothing here is asked before an operation is called."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .registry import Call

# One door for every kernel launch, so that launches can be recorded and compiled without a GPU.
#
# `bench.compiled` records what an operation launches at real shapes (on tensors without memory) and compiles exactly
# that, for several GPU generations, on a machine that has none.


Recorder = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]

_recorder: Recorder | None = None
_pretended: str | None = None


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


def family_of(x: torch.Tensor) -> str:
    """The family of the device of ``x``, or the one that `recording` stands in for."""
    return _pretended or family(x.device)


@contextmanager
def recording(recorder: Recorder, as_family: str) -> Iterator[None]:
    """Inside, launches go to ``recorder`` (kernel, grid, arguments, launch parameters) as on a GPU of ``as_family``."""
    global _recorder, _pretended
    before = _recorder, _pretended
    _recorder, _pretended = recorder, as_family
    try:
        yield
    finally:
        _recorder, _pretended = before


TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETER = "interpreter"


def family(device: torch.device) -> str:
    """The row of the launch tables for ``device``: "sm90" (Hopper), "sm100" (data-centre Blackwell), "sm80" for all
    others (Ampere, Ada, and the Blackwell of workstations, which has Ada's shared memory and matrix instructions), or
    "interpreter" for the CPU, where Triton's interpreter runs the kernels on small blocks."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return INTERPRETER
    major = _capability(device.index)[0]
    return {9: "sm90", 10: "sm100"}.get(major, "sm80")


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
        elif _capability(call.device.index) < (8, 0):
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


def interpreting() -> bool:
    """Whether Triton interprets kernels: its own environment variable TRITON_INTERPRET."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def triton_installed() -> bool:
    return "triton" in sys.modules or importlib.util.find_spec("triton") is not None


def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def interpreter_block(size: int, large: int = 64) -> int:
    """A block for the interpreter, whose cost is a call an operation: small where a loop over two or three blocks is
    cheap (and so is tested), ``large`` along long axes."""
    return 16 if size <= 64 else large
