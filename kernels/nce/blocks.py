"""Launch parameters of the contrastive loss kernels, by family of device."""

from __future__ import annotations

from typing import NamedTuple

from ..runtime import interpreter_block


class Blocks(NamedTuple):
    """``own`` rows a program keeps, ``other`` rows a step of its loop reads, ``depth`` of their product, ``width``: the
    columns of the gradient that one program makes (the similarities are computed again for each such part)."""

    own: int
    other: int
    depth: int
    width: int
    warps: int
    stages: int


# (kernel, float32), family: not yet swept on a GPU. A product of float32 is three of tf32.
_GPU = {
    ("forward", False): dict.fromkeys(("sm80", "sm90", "sm100"), Blocks(128, 128, 64, 0, 8, 3)),
    ("forward", True): dict.fromkeys(("sm80", "sm90", "sm100"), Blocks(128, 64, 32, 0, 8, 2)),
    ("gradient", False): {
        "sm80": Blocks(128, 64, 64, 128, 8, 2),
        "sm90": Blocks(64, 64, 64, 256, 8, 2),
        "sm100": Blocks(64, 64, 64, 128, 4, 2),
    },
    ("gradient", True): {
        "sm80": Blocks(32, 32, 32, 64, 4, 1),
        "sm90": Blocks(64, 32, 32, 128, 8, 1),
        "sm100": Blocks(64, 64, 32, 64, 4, 1),
    },
}
_PROGRAMS = {"interpreter": 3, "sm80": 216, "sm90": 264, "sm100": 296}


def blocks(kernel: str, family: str, wide: bool, own: int, other: int, width: int) -> Blocks:
    """``kernel`` is "forward" or "gradient"; ``wide`` for float32 rows; the numbers of rows and their width."""
    if family == "interpreter":
        depth = interpreter_block(width)
        return Blocks(interpreter_block(own), interpreter_block(other), depth, depth, 4, 1)
    return _GPU[kernel, wide][family]


def splits(family: str, tiles: int, steps: int) -> int:
    """Into how many parts the ``steps`` of a loop are divided, so that few local rows still fill the GPU."""
    return max(1, min(_PROGRAMS[family] // max(tiles, 1), steps))
