"""One door for every kernel launch, so that launches can be recorded and compiled without a GPU.

`bench.compiled` records what an operation launches at real shapes (on tensors without memory) and compiles exactly
that, for several GPU generations, on a machine that has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .devices import family

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
