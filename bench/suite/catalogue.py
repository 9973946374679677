"""All subjects by suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.shapes import OPS
from bench.suite.prepared import Subject

SUITES = ("ops", "steps", "jobs")


@dataclass(frozen=True)
class Wish:
    """``size``: of `bench.shapes.SIZES`; ``only``: one suite, or None for ops and steps; ``steps``: presets and clips
    of a batch, or None for those of the size."""

    size: str
    ops: Sequence[str] = OPS
    only: str | None = None
    steps: Sequence[Sequence] | None = None  # type: ignore[type-arg]


def plan(found: Sequence[Subject]) -> list[tuple[Subject, bool]]:
    """Pieces of work, the most important first: (subject, whether its providers that need a compiler). What training
    runs and has a target comes whole before the rest; elsewhere the long compilations come last."""
    pieces = [(subject, heavy) for subject in found for heavy in (False, True)]
    return sorted(pieces, key=lambda piece: (piece[0].rank > 0) * (1 + 2 * piece[1]) * 10 + piece[0].rank)


def subjects(wish: Wish, device: torch.device, kernels: bool) -> list[Subject]:
    """All that is wished, the most important first. ``kernels``: ours on a GPU; on a CPU what "auto" takes there."""
    from bench.suite.ops import op_subjects
    from bench.suite.steps import step_subjects

    found: list[Subject] = []
    if wish.only in (None, "ops"):
        found += op_subjects(wish.size, tuple(wish.ops), device, kernels)
    if wish.only in (None, "steps"):
        steps = None if wish.steps is None else [(str(model), int(batch)) for model, batch in wish.steps]
        found += step_subjects(wish.size, device, kernels, steps)
    return found
