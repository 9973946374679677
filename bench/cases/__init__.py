"""The cases of all operations: those of the models in training, tiny ones, and ones for a CPU.

Tokens, widths and heads are those of the presets (`vatt.presets`); a test compares them with
`vatt.analysis.flops.tokens`. A new operation is one more file here.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.cases import attention, block, frames_to_patches, mlp, nce, norm, patch_embed
from bench.cases.base import Case, Compilation, SearchSpace, Target

_OPERATIONS = (patch_embed, frames_to_patches, attention, block, nce, norm, mlp)

OPS: tuple[str, ...] = tuple(module.OP for module in _OPERATIONS)
SIZES: dict[str, tuple[Case, ...]] = {
    size: tuple(case for module in _OPERATIONS for case in module.CASES if case.size == size)
    for size in ("tiny", "cpu", "gpu")
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
