"""How fast a run is, and how long it still takes: its steps, evaluations and checkpoints.

The first step of a process is left out of every forecast: it waits for the first clips, and compiles.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from train.config.sections import RunConfig

_SURE = 60.0  # seconds of training after which its pace is known before the first record
_DAY = 86_400.0


@dataclass(frozen=True)
class Waits:
    """Seconds that the host has waited so far: for the loader, for the device, and for other ranks."""

    data: float = 0.0
    device: float = 0.0
    ranks: float = 0.0


@dataclass(frozen=True)
class Eta:
    """Seconds to the end of the run. ``measured``: also of an evaluation, whose time is else taken from the steps."""

    seconds: float
    measured: bool = True

    def __str__(self) -> str:
        return f"{'' if self.measured else 'about '}{in_words(self.seconds)}"


def in_words(seconds: float) -> str:
    """Such as "0:03:12", or "171 days" for more than two."""
    return str(timedelta(seconds=round(seconds))) if seconds < 2 * _DAY else f"{seconds / _DAY:,.0f} days"


@dataclass
class Pace:
    """The speed since the last record, and the time to go.

    Args:
        run: its length, and how often it evaluates and saves.
        step: steps that were done before this process.
        samples: of a step, on one rank.
        evaluated: samples of an evaluation, on the rank that has most; 0 where there is none.
    """

    run: RunConfig
    step: int
    samples: int = 1
    evaluated: int = 0
    _per_step: float | None = None  # seconds, of the last record but that of the first step
    _took: dict[str, float] = field(default_factory=dict)  # seconds, the last time
    _first: bool = True  # nothing but the first step was measured
    _since: float = field(default_factory=lambda: time.monotonic())
    _waits: Waits = Waits()

    def measure(self, step: int, waits: Waits) -> dict[str, Any]:
        """The figures of the steps since the last call or `took`, and "eta" (None after the first step)."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        steps, before = step - self.step, asdict(self._waits)
        shares = {f"{name}_wait": min((now - before[name]) / seconds, 1.0) for name, now in asdict(waits).items()}
        if not self._first and steps:
            self._per_step = seconds / steps
        self._first = False
        self._restart(step, waits)
        rates = {"samples_per_s": steps * self.run.batch_size / seconds, "step_s": seconds / max(steps, 1)}
        figures: dict[str, Any] = {**rates, **shares, "eta": None}
        if eta := self.eta(step):
            figures |= {"eta": eta.seconds, "eta_measured": eta.measured}
        return figures

    def _restart(self, step: int, waits: Waits) -> None:
        self._since, self.step, self._waits = time.monotonic(), step, waits

    def took(self, what: str, seconds: float, step: int, waits: Waits) -> None:
        """``what`` ("evaluation" or "saving") was done after ``step`` steps in so many seconds: no time of training."""
        self._known(step)
        self._took[what] = seconds
        self._restart(step, waits)

    def eta(self, step: int) -> Eta | None:
        """After ``step`` steps, before what is due then; None as long as the pace is not known."""
        self._known(step)
        if self._per_step is None:
            return None
        run, before = self.run, step - 1
        evaluations = 1 + ((run.steps - 1) // run.eval_every - before // run.eval_every if run.eval_every else 0)
        saves = 1 + (run.steps // run.save_every - before // run.save_every if run.save_every else 0)
        guess = self.evaluated * self._per_step / self.samples
        each = self._took.get("evaluation", guess) if self.evaluated else 0.0
        seconds = (run.steps - step) * self._per_step + evaluations * each + saves * self._took.get("saving", 0.0)
        return Eta(seconds, measured=not self.evaluated or "evaluation" in self._took)

    def _known(self, step: int) -> None:
        """Takes the pace of the steps since the first one, where it is the only one and they were long enough."""
        seconds, steps = time.monotonic() - self._since, step - self.step
        if self._per_step is None and not self._first and steps >= 2 and seconds >= _SURE:
            self._per_step = seconds / steps
