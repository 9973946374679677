"""Launch parameters of the MLP kernels, by family of device."""

from __future__ import annotations

from typing import NamedTuple

from ..runtime import interpreter_block


class Blocks(NamedTuple):
    """A tile of ``rows`` x ``columns``; ``depth``: what a step of a matrix product sums over."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Element by element: 8 numbers of 2 bytes a thread and row, 16-byte accesses.
_ELEMENTS = Blocks(8, 256, 0, 4, 1)

# Not yet swept on a GPU.
_PRODUCT = {
    "sm80": Blocks(128, 128, 32, 8, 3),
    "sm90": Blocks(128, 128, 64, 8, 3),
    "sm100": Blocks(128, 128, 64, 8, 3),
}
_FLOAT32 = Blocks(64, 64, 32, 8, 2)
_PROGRAMS = {"interpreter": 3, "sm80": 432, "sm90": 528, "sm100": 592}


def elements(family: str, rows: int, columns: int) -> Blocks:
    if family == "interpreter":
        return Blocks(4 if rows <= 32 else 32, interpreter_block(columns, 256), 0, 4, 1)
    return _ELEMENTS


def product(family: str, wide: bool, rows: int, columns: int, depth: int) -> Blocks:
    """``wide``: float32 tensors."""
    if family == "interpreter":
        return Blocks(interpreter_block(rows), interpreter_block(columns), interpreter_block(depth), 4, 1)
    return _FLOAT32 if wide else _PRODUCT[family]


def programs(family: str, across: int, steps: int) -> int:
    """How many programs share the ``steps`` of rows in each of ``across`` blocks of columns."""
    return max(1, min(_PROGRAMS[family] // across, steps))
