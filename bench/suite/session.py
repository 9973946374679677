"""Measures subjects: all providers of one in turns, several rounds, so that a drift of the machine meets them alike."""

from __future__ import annotations

import fnmatch
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.measure.memory import peak_mib
from bench.measure.peaks import Roofs
from bench.measure.timing import DeviceLost, Timing, TooLong, limited, reason, sample, summarise, tidy
from bench.suite.packages import package_version
from bench.suite.prepared import BOTH, FORWARD, STEP, Prepared, Subject
from vatt.analysis.flops import peak_flops

ROUNDS = 3
LIMIT, LIMIT_HEAVY = 60.0, 240.0  # seconds to prepare a provider
AGAIN = " again"  # ours a second time: what differs between the two is noise
Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """``seconds``: for the calls of one mode of one provider; 0: each as few times as possible. What would begin after
    ``until`` (`time.monotonic`) is left out."""

    seconds: float
    until: float = float("inf")
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Choice:
    """Patterns (as of a shell) of the names of subjects, providers and modes."""

    case: str = "*"
    providers: Sequence[str] = ("*",)
    modes: Sequence[str] = (FORWARD, BOTH, STEP)

    def subject(self, subject: Subject) -> bool:
        """Whether it is chosen; a pattern without all four parts of a name matches what begins with it."""
        return any(fnmatch.fnmatchcase(subject.name, self.case + rest) for rest in ("", "/*"))

    def provider(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.providers)


@dataclass
class Turn:
    """A provider that is ready, and the times of its modes so far."""

    name: str
    prepared: Prepared
    peaks: dict[str, float]
    times: dict[str, list[float]] = field(default_factory=dict)
    hosts: dict[str, list[float]] = field(default_factory=dict)
    failed: bool = False


class Session:
    """Measures into ``sink``, which gets each row as soon as it is known."""

    def __init__(
        self,
        sink: Callable[[Row], None],
        device: torch.device,
        roofs: Roofs,
        budget: Budget,
        choice: Choice = Choice(),
        known: Callable[[Row], bool] = lambda _: False,
    ) -> None:
        """``known`` (a row without times) says whether a provider of a subject was measured before and is left out."""
        self.sink, self.device, self.roofs, self.budget, self.choice = sink, device, roofs, budget, choice
        self.known = known
        self.left_out: list[str] = []

    def run(self, subject: Subject, heavy: bool) -> None:
        """Measures the chosen providers of a subject, those that need a compiler (``heavy``) or the others.

        Raises:
            DeviceLost: it no longer answers; the row of the provider that did it was given to the sink.
        """
        names = [name for name in subject.providers if (name in subject.heavy) == heavy]
        chosen = [name for name in names if self.choice.provider(name) and not self._known(subject, name)]
        if not chosen or not self.choice.subject(subject):
            return
        if time.monotonic() > self.budget.until:
            self.left_out.append(f"{subject.name}: {', '.join(chosen)}")
            return
        if subject.ours not in chosen and self.choice.provider(subject.ours):
            chosen.insert(0, subject.ours)  # the ratio is to be taken in the same rounds
        self._group(subject, chosen, heavy)
        subject.release()
        tidy(self.device)

    def _known(self, subject: Subject, name: str) -> bool:
        return self.known({**subject.about, "provider": name})

    def _group(self, subject: Subject, names: list[str], heavy: bool) -> None:
        turns: list[Turn] = []
        failed: set[str] = set()
        for name in names:
            if name.removesuffix(" apart") in failed:
                continue  # the same package, which has said why already
            turn = self._prepare(subject, name, heavy)
            failed |= {name} if turn is None else set()
            turns += [] if turn is None else [turn]
        if not turns:
            return
        if subject.ours in [turn.name for turn in turns] and not heavy and self.choice.provider(subject.ours):
            first = next(turn for turn in turns if turn.name == subject.ours)
            turns.append(Turn(subject.ours + AGAIN, first.prepared, first.peaks))
        for number in range(self.budget.rounds):
            # Each round begins with another provider, so that none always follows the same one.
            for turn in turns[number % len(turns) :] + turns[: number % len(turns)]:
                self._measure(subject, turn)
        for turn in turns:
            if turn.failed:
                continue
            if heavy and turn.name == subject.ours:
                turn.name += AGAIN  # its own row is of the other group, some time before
            for mode, times in turn.times.items():
                self.sink(self._row(subject, turn, mode, summarise(times, turn.hosts[mode])))

    def _prepare(self, subject: Subject, name: str, heavy: bool) -> Turn | None:
        left = max(10.0, self.budget.until + 10.0 - time.monotonic())
        limit = LIMIT_HEAVY if heavy else LIMIT
        try:
            with limited(min(left, limit)):
                prepared = subject.prepare(name)
                asked = {mode: call for mode, call in prepared.calls.items() if mode in self.choice.modes}
                peaks = {mode: peak_mib(call, self.device) for mode, call in asked.items()}
        except Exception as failure:  # refused, not installed, out of memory, does not compile: a row says so
            if isinstance(failure, TooLong) and left < limit:  # the end of the session, not a fault of the provider
                self.left_out.append(f"{subject.name}: {name}")
            else:
                self._fail(subject, name, failure)
            return None
        return Turn(name, prepared, peaks)

    def _measure(self, subject: Subject, turn: Turn) -> None:
        seconds = self.budget.seconds / self.budget.rounds
        for mode, call in turn.prepared.calls.items():
            if mode not in self.choice.modes or turn.failed:
                continue
            try:
                with limited(LIMIT):
                    times, hosts = sample(call, self.device, seconds, turn.prepared.refresh)
            except Exception as failure:
                turn.failed = True
                self._fail(subject, turn.name, failure)
                continue
            turn.times.setdefault(mode, []).extend(times)
            turn.hosts.setdefault(mode, []).extend(hosts)

    def _fail(self, subject: Subject, name: str, failure: Exception) -> None:
        """A row with the reason. Raises DeviceLost if the device is lost with it."""
        self.sink({**subject.about, "provider": name, "note": reason(failure), "command": self._again(subject, name)})
        tidy(self.device)

    def _row(self, subject: Subject, turn: Turn, mode: str, timing: Timing) -> Row:
        needed, roofs = turn.prepared.costs[mode], self.roofs
        floor = roofs.floor_ms(needed, subject.dtype)
        row: Row = dict(
            **subject.about,
            provider=turn.name,
            mode=mode,
            ms=timing.median,
            ms_p20=timing.p20,
            ms_p80=timing.p80,
            repeats=timing.repeats,
            host_ms=timing.host,
            tflops=needed.flops / timing.median * 1e-9,
            gbps=needed.bytes / timing.median * 1e-6 if needed.bytes else None,
            roof_tflops=roofs.rate(subject.dtype) * 1e-12,
            roof_gbps=roofs.copy * 1e-9,
            floor_ms=floor,
            floor_share=floor / timing.median,
            peak_mib=turn.peaks[mode],
            first_call_s=turn.prepared.first_call_s,
            error=turn.prepared.error,
            note="; ".join(filter(None, [package_version(turn.name), *turn.prepared.notes])),
            command=self._again(subject, turn.name),
        )
        if turn.prepared.samples:
            row |= dict(rate=1e3 * turn.prepared.samples / timing.median, unit="samples/s")
            row["mfu"] = needed.flops / timing.median * 1e3 / self._peak(subject.dtype)
        return row

    def _peak(self, dtype: torch.dtype) -> float:
        """Of the data sheet; where none is known, what a large product reached in this run."""
        known = peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None
        return known if known and dtype == torch.bfloat16 else self.roofs.rate(dtype)

    def _again(self, subject: Subject, name: str) -> str:
        provider = name.removesuffix(AGAIN)
        return f"python -m bench.run {subject.select} --provider {shlex.quote(provider)}"


__all__ = ["AGAIN", "Budget", "Choice", "DeviceLost", "Row", "Session"]
