"""Time, rate, share of the floor and memory of each operation at each shape, of ours and of every peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.costs import cost
from bench.peers import COMPILE, OURS, Provider, is_compiled, providers
from bench.problems import Bound, Leaves, Problem, make
from bench.records import Table, number
from bench.roofs import Roofs
from bench.shapes import Shape
from bench.timing import DeviceLost, limited, measure, peak_mib, reason, tidy

FIELDS = (
    *("op", "case", "dtype", "dropout", "mode", "provider", "ms", "ms_p20", "ms_p80", "repeats", "host_ms"),
    *("tflops", "gbps", "floor_ms", "floor_share", "ours_faster", "peak_mib", "first_call_s", "note"),
)
KEY = ("op", "case", "dropout", "mode", "provider")
AGAIN = f"{OURS} again"  # ours a second time, after the peers: what differs between the two is noise
MODES = ("forward", "forward+backward")
DROPOUT = 0.1
LIMIT, LIMIT_COMPILED = 45.0, 90.0  # seconds a provider


@dataclass(frozen=True)
class Work:
    """One shape at one dropout rate, with the providers that are compiled or with the others."""

    shape: Shape
    dropout: float
    compiled: bool

    def __str__(self) -> str:
        what = " torch.compile" if self.compiled else ""
        return f"{self.shape.op} {self.shape.name} p={self.dropout}{what}"


def plan(shapes: list[Shape]) -> list[Work]:
    """The most important first: shapes with a target as training runs them, then without dropout, then the others.
    What torch.compile needs most of the time for comes after what is quick."""
    found = []
    for shape in shapes:
        for dropout in (DROPOUT, 0.0) if shape.has_dropout else (0.0,):
            trained = dropout > 0 or not shape.has_dropout
            for compiled in (False, True):
                rank = _RANKS[shape.priority, trained, compiled]
                found.append((rank, Work(shape, dropout, compiled)))
    return [work for _, work in sorted(found, key=lambda pair: pair[0])]


# (priority, as training runs it, compiled) -> rank
_RANKS = {
    (1, True, False): 0,
    (1, True, True): 0,
    (1, False, False): 1,
    (2, True, False): 2,
    (1, False, True): 3,
    (2, False, False): 4,
    (2, True, True): 5,
    (2, False, True): 6,
}


class Speed:
    """Measures into a table."""

    def __init__(self, table: Table, roofs: Roofs, device: torch.device, seconds: float, until: float) -> None:
        """``seconds``: for the repeats of one row. What would begin after ``until`` (`time.monotonic`) is left out, and
        named in ``left_out``."""
        self.table, self.roofs, self.device, self.seconds, self.until = table, roofs, device, seconds, until
        self.left_out: list[str] = []

    def run(self, work: Work) -> Iterator[dict[str, Any]]:
        """Adds and yields the rows of a piece of work, but those that the table has."""
        if time.monotonic() > self.until:
            self.left_out.append(f"speed {work}")
            return
        about = dict(op=work.shape.op, case=work.shape.name, dtype=str(work.shape.dtype)[6:], dropout=work.dropout)
        try:
            problem = make(work.shape, self.device)
        except Exception as failure:
            yield from self._failed({**about, "provider": OURS}, failure)
            tidy(self.device)
            return
        chosen = {name: p for name, p in providers(problem).items() if is_compiled(name) == work.compiled}
        if not work.compiled:
            chosen[AGAIN] = chosen[OURS]
        for name, provider in chosen.items():
            row = {**about, "provider": name}
            packed = {**row, "provider": name.removesuffix(" apart")}
            refused = name.endswith(" apart") and not self.table.has(**_key(packed), note="")
            if refused or self.table.has(**_key(row)):
                continue
            if time.monotonic() > self.until:
                self.left_out.append(f"speed {work} {name}")
            else:
                yield from self._provider(problem, work, row, provider)
        del problem
        tidy(self.device)

    def _provider(
        self, problem: Problem, work: Work, row: dict[str, Any], provider: Provider
    ) -> Iterator[dict[str, Any]]:
        done = []
        try:
            left = max(10.0, self.until + 10.0 - time.monotonic())
            with limited(min(left, LIMIT_COMPILED if work.compiled else LIMIT)):
                for measured in self._modes(problem, work, provider):
                    done.append(self._add({**row, **measured}))
            yield from done
        except DeviceLost:
            raise
        except Exception as failure:  # refused, not installed, out of memory, does not compile: a row says so
            yield from done
            yield from self._failed({**row, "mode": MODES[len(done)]}, failure)
        tidy(self.device)

    def _modes(self, problem: Problem, work: Work, provider: Provider) -> Iterator[dict[str, Any]]:
        problem.notes.clear()
        began = time.perf_counter()
        call, leaves = provider(problem, work.dropout)
        outputs = call()
        grads = problem.gradients(outputs)
        del outputs
        calls = dict(zip(MODES, (call, _with_backward(call, leaves, grads)), strict=True))
        calls[MODES[1]]()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        first = time.perf_counter() - began
        for mode, run in calls.items():
            peak = peak_mib(run, self.device)
            timing = measure(run, self.device, self.seconds)
            needed = cost(work.shape, mode == MODES[1], work.dropout)
            floor = self.roofs.floor_ms(needed, work.shape.dtype)
            yield dict(
                mode=mode,
                ms=timing.median,
                ms_p20=timing.p20,
                ms_p80=timing.p80,
                repeats=timing.repeats,
                host_ms=timing.host,
                tflops=needed.flops / timing.median * 1e-9,
                gbps=needed.bytes / timing.median * 1e-6,
                floor_ms=floor,
                floor_share=floor / timing.median,
                peak_mib=peak,
                first_call_s=first,
                note="; ".join(problem.notes),
            )

    def _add(self, row: dict[str, Any]) -> dict[str, Any]:
        ours = self._ours(row)
        if ours is not None:
            row["ours_faster"] = row["ms"] / ours
        self.table.add(row)
        return row

    def _ours(self, row: dict[str, Any]) -> float | None:
        """Our time at this shape, dropout and mode, if it was measured."""
        same = {name: str(row[name]) for name in ("op", "case", "mode")} | {"provider": OURS}
        for other in self.table.rows:
            if all(other[name] == value for name, value in same.items()) and float(other["dropout"]) == row["dropout"]:
                return number(other, "ms")
        return None

    def _failed(self, row: dict[str, Any], failure: Exception) -> Iterator[dict[str, Any]]:
        row = {**row, "note": reason(failure)}
        self.table.add(row)
        yield row


def _key(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in KEY if name in row}


def _with_backward(call: Bound, leaves: Leaves, grads: tuple[Tensor, ...]) -> Callable[[], Any]:
    wanted = list(leaves.values())
    return lambda: torch.autograd.grad(call(), wanted, grads)


def line(row: dict[str, Any]) -> str:
    """A row as one short line of text."""
    head = f"{row['op']} {row['case']} p={row['dropout']} {row.get('mode', '')} {row['provider']}"
    if row.get("ms") is None:
        return f"{head}: {row['note']}"
    faster = f", ours {row['ours_faster']:.2f}x" if "ours_faster" in row else ""
    note = f" ({row['note']})" if row.get("note") else ""
    memory = f", {row['peak_mib']:.0f} MiB" if row.get("peak_mib") is not None else ""
    return f"{head}: {row['ms']:.4g} ms, {100 * row['floor_share']:.0f}% of the floor's rate{faster}{memory}{note}"


__all__ = ["COMPILE", "FIELDS", "KEY", "Speed", "Work", "line", "plan"]
