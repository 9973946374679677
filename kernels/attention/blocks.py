"""Launch parameters of the attention kernels, by family of device, head dim and longest sequence."""

from __future__ import annotations

from typing import NamedTuple

from ..runtime import interpreter_block
from .tiles import SHORT


class Blocks(NamedTuple):
    """``own``: tokens that a program keeps; ``other``: tokens a step of its loop reads."""

    own: int
    other: int
    warps: int
    stages: int


# Sentences: one program a sequence and head.
_SHORT = dict.fromkeys(("forward", "bias"), Blocks(32, 32, 4, 1)) | dict.fromkeys(
    ("queries", "keys"), Blocks(32, 16, 8, 1)
)

# (kernel, family): blocks for head dims up to 64, and for wider ones up to 128. Not yet swept on a GPU.
_LONG: dict[tuple[str, str], tuple[Blocks, Blocks]] = {
    ("forward", "sm80"): (Blocks(128, 64, 8, 2), Blocks(128, 32, 8, 3)),
    ("forward", "sm90"): (Blocks(128, 128, 8, 2), Blocks(128, 64, 8, 2)),
    ("forward", "sm100"): (Blocks(128, 64, 8, 2), Blocks(128, 64, 8, 2)),
    ("queries", "sm80"): (Blocks(128, 64, 8, 2), Blocks(64, 64, 8, 2)),
    ("queries", "sm90"): (Blocks(128, 64, 8, 2), Blocks(128, 64, 8, 2)),
    ("queries", "sm100"): (Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2)),
    ("keys", "sm80"): (Blocks(64, 32, 8, 2), Blocks(64, 64, 8, 1)),
    ("keys", "sm90"): (Blocks(128, 64, 8, 2), Blocks(64, 32, 8, 2)),
    ("keys", "sm100"): (Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2)),
}
_FLOAT32 = {"forward": Blocks(64, 32, 8, 1), "queries": Blocks(32, 32, 4, 1), "keys": Blocks(32, 32, 8, 1)}


def blocks(kernel: str, family: str, head_dim: int, length: int, wide: bool) -> Blocks:
    """``kernel`` is "forward", "queries" (dq), "keys" (dk, dv) or "bias"; ``wide`` for float32 tensors."""
    if family == "interpreter":
        block = 32 if 16 < length <= SHORT else interpreter_block(length)
        return Blocks(block, block, 4, 1)
    if length <= SHORT or kernel == "bias":
        return _SHORT[kernel]
    if wide:
        return _FLOAT32[kernel]  # twice the bytes, and three products for each
    return _LONG[kernel, family][head_dim > 64]
