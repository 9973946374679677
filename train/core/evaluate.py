"""What the evaluations during a run share: a plain copy of the model, its clips, and warnings for those skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import nn

from train.core.console import Reporter
from train.core.engine import Engine
from vatt.data import Clip
from vatt.data.skipped import Record
from vatt.weights.tensors import Tensors

Model = TypeVar("Model", bound=nn.Module)


class Evaluator(Protocol):
    """Called with the number of steps done, on all ranks. ``samples``: that it reads, on the rank that has most."""

    @property
    def samples(self) -> int: ...

    def __call__(self, step: int) -> object: ...


def plain_copy(engine: Engine, weights: Tensors, make: Callable[[], Model]) -> Model:
    """The model without ZeRO, on the device and in the type of the run.

    Args:
        weights: of the engine's module, by the names of the model.
        make: a model of the same shapes. What it draws does not change the draws of the run.
    """
    with torch.random.fork_rng(devices=[]):
        model = make()
    own = model.state_dict()
    with torch.no_grad():
        for name, value in weights:
            own.pop(name).copy_(value)
    assert not own, f"without weights: {sorted(own)}"
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
