"""Launch parameters of the norm kernels: rows a program, programs of the backward pass, warps."""

from __future__ import annotations

from typing import NamedTuple


class Blocks(NamedTuple):
    """``rows``: rows of a tile; ``programs``: how many programs share the rows in the backward pass, each with one row
    of partial sums for the gradients of weight and bias."""

    rows: int
    warps: int
    programs: int


def forward(family: str, width: int, rows: int) -> Blocks:
    if family == "interpreter":
        return _interpreter(rows)
    # Tiles of at least 2048 numbers, so that each of 128 threads has 16 bytes to read in one go.
    tile = max(2, 2048 // _power_of_two(width))
    return Blocks(tile, warps=4 if width <= 1024 else 8, programs=0)


def backward(family: str, width: int, rows: int) -> Blocks:
    if family == "interpreter":
        return _interpreter(rows)
    # Multiples of the streaming multiprocessors (108 on A100, 132 on H100, 148 on B200).
    programs = {"sm80": 432, "sm90": 528, "sm100": 592}[family]
    tile = max(1, 1024 // _power_of_two(width))
    return Blocks(tile, warps=4 if width <= 1024 else 8, programs=programs)


def _interpreter(rows: int) -> Blocks:
    return Blocks(2 if rows <= 32 else 32, warps=4, programs=3)


def _power_of_two(width: int) -> int:
    return 1 << (width - 1).bit_length()
