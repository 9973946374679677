"""What the evaluations during a run share: a plain copy of the model, its clips, and warnings for those skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from train.core.console import Reporter
from train.core.engine import Engine
from vatt.data import Clip
from vatt.data.skipped import Record

Model = TypeVar("Model", bound=nn.Module)


class Evaluator(Protocol):
    """Called with the number of steps done, on all ranks. ``samples``: that it reads, on the rank that has most."""

    @property
    def samples(self) -> int: ...

    def __call__(self, step: int) -> object: ...


def plain_copy(engine: Engine, state: dict[str, Tensor], make: Callable[[], Model], prefix: str) -> Model:
    """The model without ZeRO, on the device and in the type of the run.

    Args:
        state: of the engine's module.
        make: a model of the same shapes. What it draws does not change the draws of the run.
        prefix: of the model's names in ``state``.
    """
    with torch.random.fork_rng(devices=[]):
        model = make()
    model.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
    return model.to(engine.device, engine.dtype)


def evenly(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most ``most`` of the clips (0: all), evenly spread: a manifest is often sorted by class."""
    return list(clips[:: -(-len(clips) // most)]) if most and clips else list(clips)


def count_evenly(count: int, most: int) -> int:
    """How many of ``count`` clips `evenly` takes."""
    return -(-count // -(-count // most)) if most and count else count


def warn_skipped(reporter: Reporter, skipped: Iterable[Record]) -> None:
    """A line for each held-out clip that could not be read."""
    for record in skipped:
        reporter.warn(f"evaluation: {record['file']}: {record['field']}: {record['reason']}")
