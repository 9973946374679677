"""What a subject of measurement is: something with providers, each of which prepares calls that can be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.costs import Cost

FORWARD, BOTH, STEP = "forward", "forward+backward", "step"


@dataclass
class Prepared:
    """Calls by mode, which all ran once; what each costs at least; and what is known of them.

    Attributes:
        refresh: new numbers into the inputs.
        first_call_s: seconds of the first calls, compilation among them.
        error: ||out - reference|| / ||reference||, None where the results are not comparable (dropout, another loss).
        samples: clips of a call, for whole steps.
    """

    calls: Mapping[str, Callable[[], Any]]
    costs: Mapping[str, Cost]
    refresh: Callable[[], None]
    first_call_s: float
    error: float | None = None
    samples: int | None = None
    notes: list[str] = field(default_factory=list)


class Subject(ABC):
    """One operation at one shape, or one model at one batch.

    Attributes:
        about: the columns suite, op, case, shape, dtype, dropout of its rows.
        dtype: of its products, for the roof.
        ours: the provider that the others are compared with.
        select: the options of `bench.run` that select it.
        heavy: the providers whose preparation is long (a compiler).
        rank: 0 for what has a target, as training runs it; the larger, the less important.
    """

    about: dict[str, Any]
    dtype: torch.dtype
    ours: str
    select: str
    providers: tuple[str, ...]
    heavy: frozenset[str] = frozenset()
    rank: int = 0

    @property
    def name(self) -> str:
        """What --case matches: op/case/dtype/pDROPOUT."""
        about = self.about
        return f"{about['op']}/{about['case']}/{about['dtype']}/p{about['dropout']:g}"

    @abstractmethod
    def prepare(self, provider: str) -> Prepared:
        """Makes the calls and runs each once. Raises whatever a compiler, a driver or a missing package raises."""

    @abstractmethod
    def release(self) -> None:
        """Drops tensors and compiled code."""
