"""Which launch parameters are swept, over which values, and how a table entry is replaced for a while.

The tables are those of kernels/*/triton_launch.py. A target names a table and the path of an entry in it; an empty path
is the attribute itself, and a function is replaced by one that returns the candidate.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

FAMILY = "FAMILY"  # stands for the family of the device in a path


@dataclass(frozen=True)
class Target:
    """``grid``: the values of each field of an entry, or of a number. ``shapes`` are names in `bench.shapes` of ``op``,
    in tiny runs the first of that operation. ``backend``: which backend uses the entry."""

    op: str
    kernel: str
    table: str
    path: tuple[Any, ...]
    grid: tuple[Sequence[int], ...]
    shapes: tuple[str, ...]
    backward: bool = True
    backend: str = "triton"

    @property
    def module(self) -> Any:
        return importlib.import_module(f"vatt.kernels.{self.op}.triton_launch")

    def candidates(self) -> list[Any]:
        """All values of the grid, as entries of the table."""
        points = product(*self.grid)
        if len(self.grid) == 1:
            return [point[0] for point in points]
        return [self.module.LaunchConfig(*point) for point in points]

    def where(self, family: str) -> tuple[Any, ...]:
        """The path on a device of ``family``."""
        return _named(self.path, family)

    def line(self, family: str, value: Any) -> str:
        """What to paste into triton_launch.py."""
        old = getattr(self.module, self.table)
        if callable(old):
            return f"{self.table}() on {family}: return {value!r}"
        if not self.path:
            return f"{self.table} = {value!r}"
        path = self.where(family)
        return f"{self.table}: {path[0]!r}: {with_entry(old, path, value)[path[0]]!r},"


def _named(path: tuple[Any, ...], family: str) -> tuple[Any, ...]:
    return tuple(_named(p, family) if isinstance(p, tuple) else family if p == FAMILY else p for p in path)


def entry(table: Any, path: Sequence[Any]) -> Any:
    """The entry at a path of keys and indices. Raises KeyError or IndexError where there is none."""
    for step in path:
        table = table[step]
    return table


def with_entry(table: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of nested dicts and tuples with one entry replaced. Raises KeyError or IndexError where there is none."""
    if not path:
        return value
    inner = with_entry(table[path[0]], path[1:], value)
    if isinstance(table, dict):
        return {**table, path[0]: inner}
    items = list(table)
    items[path[0]] = inner
    return tuple(items)


@contextmanager
def replaced(target: Target, family: str, value: Any) -> Iterator[None]:
    """Inside, the kernels of ``target`` are launched with ``value``; None leaves the table as it is.

    Raises:
        AttributeError, LookupError: the table has no such entry any more.
    """
    module, old = target.module, getattr(target.module, target.table)
    if value is None:
        yield
        return
    if callable(old):
        new: Any = lambda *_, **__: value  # noqa: E731
    else:
        if not isinstance(value, type(entry(old, target.where(family)))):
            raise LookupError(f"{target.table}: {target.where(family)} is no {type(value).__name__}")
        new = with_entry(old, target.where(family), value)
    setattr(module, target.table, new)
    try:
        yield
    finally:
        setattr(module, target.table, old)


_LONG = ("video_785_h12", "audio_601_h12", "finetune_3201_h12")
_ATTENTION = ((64, 128), (32, 64, 128), (4, 8), (2, 3))
_PRODUCT = ((64, 128, 256), (64, 128, 256), (32, 64), (4, 8), (3, 4))
_FEW, _TEXT = ((32, 64), (16, 32), (1, 2, 4), (1, 2)), ("text_17_h8",)
_PROGRAMS = ((132, 264, 528, 1056),)

# LaunchConfig(own, other, warps, stages) of attention, (rows, columns, depth, warps, stages) of mlp and patch_embed,
# (rows, warps, programs) of norm, (own, other, depth, width, warps, stages) of nce.
TARGETS = (
    Target(
        "patch_embed", "forward", "FORWARD_CONFIGS", (FAMILY,), _PRODUCT, ("video_768", "video_1024"), backward=False
    ),
    Target("patch_embed", "weight", "WEIGHT_CONFIGS", (FAMILY,), _PRODUCT, ("video_768", "video_1024")),
    Target("patch_embed", "splits", "PROGRAMS", (FAMILY,), _PROGRAMS, ("video_768", "video_1024")),
    Target("attention", "forward", "LONG_CONFIGS", (("forward", FAMILY), 0), _ATTENTION, _LONG, backward=False),
    Target("attention", "keys", "LONG_CONFIGS", (("keys", FAMILY), 0), _ATTENTION, _LONG),
    Target("attention", "queries", "LONG_CONFIGS", (("queries", FAMILY), 0), _ATTENTION, _LONG),
    Target("attention", "short forward", "SHORT_CONFIGS", ("forward",), _FEW, _TEXT, backward=False),
    Target("attention", "short keys", "SHORT_CONFIGS", ("keys",), _FEW, _TEXT),
    Target("attention", "short queries", "SHORT_CONFIGS", ("queries",), _FEW, _TEXT),
    Target(
        "mlp",
        "elements",
        "ELEMENTWISE_CONFIG",
        (),
        ((1, 2, 4, 8, 16), (256, 512, 1024), (0,), (4, 8), (1,)),
        ("video_768",),
    ),
    Target("mlp", "programs", "PROGRAMS", (FAMILY,), _PROGRAMS, ("video_768", "video_1024")),
    Target(
        "mlp", "product", "PRODUCT_CONFIGS", (FAMILY,), _PRODUCT, ("video_768",), backward=False, backend="triton_gemm"
    ),
    Target("norm", "forward", "forward_config", (), ((1, 2, 4, 8), (2, 4, 8), (0,)), ("layer_768",), backward=False),
    Target("norm", "backward", "backward_config", (), ((1, 2, 4), (2, 4, 8), (264, 528, 1056)), ("layer_768",)),
    Target(
        "nce",
        "forward bf16",
        "CONFIGS",
        (("forward", False), FAMILY),
        ((64, 128), (64, 128, 256), (32, 64), (0,), (4, 8), (2, 3, 4)),
        ("mil_4096x5_bf16",),
        backward=False,
    ),
    Target(
        "nce",
        "forward f32",
        "CONFIGS",
        (("forward", True), FAMILY),
        ((64, 128), (32, 64, 128), (32, 64), (0,), (4, 8), (1, 2)),
        ("mil_4096x5_f32", "va_4096_f32"),
        backward=False,
    ),
    Target(
        "nce",
        "gradient bf16",
        "CONFIGS",
        (("gradient", False), FAMILY),
        ((64, 128), (32, 64), (32, 64), (128, 256), (4, 8), (1, 2)),
        ("mil_4096x5_bf16",),
    ),
    Target(
        "nce",
        "gradient f32",
        "CONFIGS",
        (("gradient", True), FAMILY),
        ((32, 64, 128), (32, 64), (32,), (64, 128), (4, 8), (1, 2)),
        ("mil_4096x5_f32", "va_4096_f32"),
    ),
    Target("nce", "splits", "PROGRAMS", (FAMILY,), _PROGRAMS, ("mil_4096x5_f32",)),
)
