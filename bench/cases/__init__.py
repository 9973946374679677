"""The cases of all operations: those of the models in training, tiny ones, and ones for a CPU.

Tokens, widths and heads are those of the presets (`vatt.presets`); a test compares them with
`vatt.analysis.flops.tokens`. A new operation is one more file here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.cases import attention, block, mlp, nce, norm, patch_embed
from bench.cases.base import Case, Compilation, SearchSpace, Target

_OPERATIONS = (patch_embed, attention, block, nce, norm, mlp)
# "gpu": real shapes in bfloat16 (the loss also in float32); "cpu": the sizes of vatt-base with few clips, so that a
# call takes from 1 ms to 1 s on a few cores; "tiny": only to exercise the code.
_CHANGES: dict[str, dict[str, Any]] = {
    "tiny": dict(dtype=torch.float32, tiny=True),
    "cpu": dict(dtype=torch.float32),
    "gpu": {},
}

OPS: tuple[str, ...] = tuple(module.OP for module in _OPERATIONS)
SIZES: dict[str, tuple[Case, ...]] = {
    size: tuple(replace(case, **changes) for module in _OPERATIONS for case in module.CASES[size])
    for size, changes in _CHANGES.items()
}
# What an operation may lack: targets, and kernels of its own.
TARGETS: dict[str, tuple[Target, ...]] = {module.OP: getattr(module, "TARGETS", ()) for module in _OPERATIONS}
SEARCH_SPACES: tuple[SearchSpace, ...] = tuple(
    space for module in _OPERATIONS for space in getattr(module, "SEARCH_SPACES", ())
)
COMPILATIONS: tuple[Compilation, ...] = tuple(
    compilation for module in _OPERATIONS for compilation in getattr(module, "COMPILATIONS", ())
)


def cases(size: str, ops: Sequence[str] = OPS) -> list[Case]:
    """The cases of the named operations, the most important first."""
    return sorted((case for case in SIZES[size] if case.op in ops), key=lambda case: case.priority)
