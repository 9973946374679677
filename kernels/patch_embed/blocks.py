"""Launch parameters of the patch embedding kernels, by family of device."""

from __future__ import annotations

from typing import NamedTuple

from ..runtime import interpreter_block


class Blocks(NamedTuple):
    """A tile of the product, ``rows`` x ``columns``, summed over steps of ``depth``."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


_FLOAT32 = Blocks(64, 64, 32, 8, 2)

# Not yet swept on a GPU. Forward: rows are tokens, columns the width, the sum runs over the numbers of a patch.
_FORWARD = {
    "sm80": Blocks(128, 128, 64, 8, 3),
    "sm90": Blocks(128, 128, 64, 8, 3),
    "sm100": Blocks(128, 128, 64, 8, 3),
}
# Weight gradient: rows are the numbers of a patch, columns the width, the sum runs over tokens.
_WEIGHT = {
    "sm80": Blocks(128, 128, 32, 8, 3),
    "sm90": Blocks(128, 128, 64, 8, 3),
    "sm100": Blocks(128, 128, 64, 8, 3),
}
# About two programs for each streaming multiprocessor; more partial sums than that only cost memory.
_PROGRAMS = {"interpreter": 4, "sm80": 216, "sm90": 264, "sm100": 296}


def forward(family: str, wide: bool, rows: int, width: int, patch: int) -> Blocks:
    """``wide``: float32 weights."""
    if family == "interpreter":
        return _interpreter(rows, width, patch)
    return _FLOAT32 if wide else _FORWARD[family]


def weight(family: str, wide: bool, rows: int, width: int, patch: int) -> Blocks:
    if family == "interpreter":
        return _interpreter(patch, width, rows)
    return _FLOAT32 if wide else _WEIGHT[family]


def _interpreter(rows: int, columns: int, depth: int) -> Blocks:
    return Blocks(interpreter_block(rows), interpreter_block(columns), interpreter_block(depth, 256), 4, 1)


def elements(family: str, rows: int, width: int) -> Blocks:
    """Element by element: 16 bytes a thread and row."""
    if family == "interpreter":
        return Blocks(4 if rows <= 32 else 32, interpreter_block(width, 256), 0, 4, 1)
    return Blocks(8, 256, 0, 4, 1)


def positions(family: str, width: int) -> int:
    """Columns of a program that sums the gradients of a position."""
    return interpreter_block(width, 256) if family == "interpreter" else min(256, 1 << (width - 1).bit_length())


def splits(family: str, tiles: int, steps: int) -> int:
    """Into how many partial sums the ``steps`` of a weight gradient of ``tiles`` tiles are divided."""
    return max(1, min(_PROGRAMS[family] // tiles, steps))
