"""Launch parameters of the MLP kernels, by family of device."""

from __future__ import annotations

from typing import NamedTuple


class Blocks(NamedTuple):
    """A tile of ``rows`` x ``columns``; ``depth``: what a step of a matrix product sums over."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Element by element: 8 numbers of 2 bytes a thread and row, 16-byte accesses.
_ELEMENTS = {"interpreter": Blocks(4, 16, 0, 4, 1)}
_ELEMENTS_GPU = Blocks(8, 256, 0, 4, 1)

# Not yet swept on a GPU.
_PRODUCT = {
    "interpreter": Blocks(16, 16, 16, 4, 1),
    "sm80": Blocks(128, 128, 32, 8, 3),
    "sm90": Blocks(128, 128, 64, 8, 3),
    "sm100": Blocks(128, 128, 64, 8, 3),
}
_FLOAT32 = Blocks(64, 64, 32, 8, 2)
_PROGRAMS = {"interpreter": 3, "sm80": 432, "sm90": 528, "sm100": 592}


def elements(family: str) -> Blocks:
    return _ELEMENTS.get(family, _ELEMENTS_GPU)


def product(family: str, wide: bool) -> Blocks:
    """``wide``: float32 tensors."""
    return _FLOAT32 if wide and family != "interpreter" else _PRODUCT[family]


def programs(family: str, across: int, steps: int) -> int:
    """How many programs share the ``steps`` of rows in each of ``across`` blocks of columns."""
    return max(1, min(_PROGRAMS[family] // across, steps))
