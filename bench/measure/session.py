"""Measures subjects: all providers of one in turns, several rounds, so that a drift of the machine meets them alike;
and writes the rows, to the screen and to a results file."""

from __future__ import annotations

import fnmatch
import shlex
import statistics
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import store
from bench.baselines import package_version
from bench.cases.base import Cost
from bench.measure.peaks import DevicePeaks, measure_peaks
from bench.measure.timing import Timing, guarded, summarise, tidy
from vatt import results
from vatt.analysis.flops import peak_flops
from vatt.analysis.peak_memory import peak_mib
from vatt.kernels.timing import TooLong, reason, sample

Row = dict[str, Any]
FORWARD, BOTH, STEP = "forward", "forward+backward", "step"
MODES = (FORWARD, BOTH, STEP)
ROUNDS = 3
LIMIT, LIMIT_HEAVY = 60.0, 240.0  # seconds to prepare a provider on a GPU
PATIENCE = 5  # times as long on a CPU
AGAIN = " again"  # ours a second time: what differs between the two is noise

WORDS = {
    "floor_share": "{:.0%} of the device peak",
    "rate": "{:.4g} {unit}",
    "mfu": "MFU {:.1%}",
    "wait_share": "waiting {:.0%}",
    "peak_mib": "{:.0f} MiB",
    "error": "error {:.1e}",
}
SAME = ("commit", "dirty", "device", "torch", "triton", "threads")  # of the same origin


@dataclass
class Prepared:
    """Calls by mode, which all ran once, and what each costs at least. ``refresh``: new numbers into the inputs;
    ``first_call_s``: seconds of the first calls, with compilation; ``error``: ||out - reference|| / ||reference||, None
    where the results are not comparable (dropout, another loss); ``samples``: clips of a call, of whole steps; ``cpu``:
    by mode, seconds of all threads of the calls so far, where they are counted; ``here``: in this process, whose memory
    is known."""

    calls: Mapping[str, Callable[[], Any]]
    costs: Mapping[str, Cost]
    refresh: Callable[[], None]
    first_call_s: float
    error: float | None = None
    samples: int | None = None
    notes: list[str] = field(default_factory=list)
    cpu: Mapping[str, list[float]] = field(default_factory=dict)
    here: bool = True


class Subject(ABC):
    """One operation at one shape, or one model at one batch, with providers that each prepare calls to be timed.

    Attributes:
        about: the columns suite, op, case, shape, dtype, dropout of its rows.
        dtype: of its products, for the device peak.
        device: where it runs.
        ours: the provider that the others are compared with.
        select: the options of the sub-command ``suite`` that select it.
        modes: of its calls.
        heavy: the providers whose preparation is long (a compiler).
        rank: 0 for what has a target, as training runs it; the larger, the less important.
    """

    about: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    ours: str
    select: str
    providers: tuple[str, ...]
    modes: tuple[str, ...] = (FORWARD, BOTH)
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

    def release(self) -> None:
        """Drops tensors and compiled code."""
        torch._dynamo.reset()


def plan(found: Sequence[Subject]) -> list[tuple[Subject, bool]]:
    """Pieces of work, the most important first: (subject, whether its providers that need a compiler). What training
    runs and has a target comes whole before the rest; elsewhere the long compilations come last."""
    pieces = [(subject, heavy) for subject in found for heavy in (False, True)]
    return sorted(pieces, key=lambda piece: (piece[0].rank > 0) * (1 + 2 * piece[1]) * 10 + piece[0].rank)


def select(found: Iterable[Subject], case: str) -> list[Subject]:
    """Those whose names the pattern matches; one without all four parts of a name matches what begins with it."""
    return [subject for subject in found if matches(subject.name, (case, f"{case}/*"))]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns (as of a shell) fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def line(row: Row) -> str:
    """A row as one short line of text."""
    head = f"{row['op']} {row['case']} p={row.get('dropout', 0):g} {row.get('mode', '')} {row['provider']}"
    if row.get("ms") is None:
        return f"{head}: {row['note']}"
    parts = [f"{row['ms']:.4g} ms ({row['ms_p20']:.4g} to {row['ms_p80']:.4g})"]
    parts += [words.format(row[name], **row) for name, words in WORDS.items() if row.get(name) is not None]
    return f"{head}: {', '.join(parts)}{' (' + row['note'] + ')' if row.get('note') else ''}"


class Writer:
    """Prints rows and appends them to a results file."""

    def __init__(
        self,
        path: Path | None,
        device: torch.device,
        resume: bool = False,
        commit: str | None = None,
        any_origin: bool = False,
    ) -> None:
        """``resume``: `known` finds rows that ``path`` has already, of this commit and device unless of ``any_origin``.
        ``commit``: of a tree that is no clone, where git cannot tell."""
        self.path, self.device, self.any_origin = path, device, any_origin
        self.origin = results.origin(device, aside=path)
        if commit is not None:
            self.origin["commit"] = commit[:12]
        self.rows: list[Row] = []
        if path is not None:
            store.append(path, [])  # a file that is none is told now, not after the first hour
        self.before = store.read(path) if resume and path is not None else []
        print(f"{self.origin['device']}, torch {self.origin['torch']}, commit {self.origin['commit']}", flush=True)

    def __call__(self, row: Row) -> None:
        self.rows.append(row)
        print(line(row), flush=True)
        if self.path is not None:
            store.append(self.path, [{**self.origin, "time": results.now(), **row}])

    def known(self, row: Row) -> bool:
        """Whether the file had this row before this run. Uncommitted changes have no name, so two rows with them may be
        of different code."""
        named = self.origin["dirty"] == "unknown" and self.origin["commit"] != "unknown"  # --commit says what it is
        if not (self.any_origin or named or self.origin["dirty"] == "False"):
            return False
        wanted = {} if self.any_origin else {name: self.origin[name] for name in SAME}
        wanted |= {name: results.text(row[name]) for name in ("suite", "op", "case", "dtype", "dropout", "provider")}
        modes = ("", row["mode"])  # the row of a failure has none
        return any(wanted.items() <= old.items() and old["mode"] in modes for old in self.before)

    def peaks(self, size: str) -> DevicePeaks:
        """Measures the peaks of the device and adds their rows."""
        found, timings = measure_peaks(self.device, size)
        for name, timing in timings.items():
            rate = {"gbps": found.copy * 1e-9} if name == "copy" else {"tflops": getattr(found, name) * 1e-12}
            row = dict(suite="roof", op="roof", case=name, provider="torch", ms=timing.best, ms_p20=timing.p20)
            row |= dict(ms_p80=timing.p80, repeats=timing.repeats, floor_share=1.0, command="python -m bench ops")
            self(row | rate)
        return found


@dataclass(eq=False)
class _Turn:
    """A provider that is ready; by mode its memory and, so far, milliseconds of its calls and of issuing them."""

    name: str
    prepared: Prepared
    mib: dict[str, float | None]
    times: dict[str, tuple[list[float], list[float]]] = field(default_factory=lambda: defaultdict(lambda: ([], [])))

    def measure(self, mode: str, device: torch.device, seconds: float) -> None:
        times, hosts = sample(self.prepared.calls[mode], device, seconds, self.prepared.refresh)
        self.times[mode][0].extend(times)
        self.times[mode][1].extend(hosts)


@dataclass
class Session:
    """Measures into ``write``, which gets each row as soon as it is known.

    ``seconds``: for the calls of one mode of one provider; 0: each as few times as possible. What would begin after
    ``until`` (`time.monotonic`) is named in ``left_out``. ``providers``: patterns of their names. ``known``: whether
    there is a row with these columns already; such a provider is not measured again.
    """

    write: Callable[[Row], None]
    device: torch.device
    peaks: DevicePeaks
    seconds: float
    until: float = float("inf")
    rounds: int = ROUNDS
    providers: Sequence[str] = ("*",)
    modes: Sequence[str] = MODES
    known: Callable[[Row], bool] = lambda row: False
    left_out: list[str] = field(default_factory=list)

    def run(self, subject: Subject, heavy: bool) -> None:
        """Measures the selected providers of a subject, those that need a compiler (``heavy``) or the others.

        Raises:
            DeviceLost: it no longer answers; the row of the provider that did it was written.
        """
        ours, wanted = subject.ours, [name for name in subject.providers if matches(name, self.providers)]
        modes = [mode for mode in subject.modes if mode in self.modes]
        names = [name for name in wanted if (name in subject.heavy) == heavy]
        names = [n for n in names if not all(self.known({**subject.about, "provider": n, "mode": m}) for m in modes)]
        if not names:
            return
        if time.monotonic() > self.until:
            self.left_out.append(f"{subject.name}: {', '.join(names)}")
            return
        if ours in wanted and ours not in names:
            names.insert(0, ours)  # the ratio is to be taken in the same rounds
        turns: list[_Turn] = []
        for name in names:
            package = name.removesuffix(" apart")
            if package != name and package in names and all(turn.name != package for turn in turns):
                continue  # the same package, which has said why already
            left = max(10.0, self.until + 10.0 - time.monotonic())
            began = time.monotonic()
            with self._attempt(subject, name, min(left, LIMIT_HEAVY if heavy else LIMIT)):
                prepared = subject.prepare(name)
                asked = {mode: call for mode, call in prepared.calls.items() if mode in modes}
                peaks = {mode: peak_mib(c, self.device) if prepared.here else None for mode, c in asked.items()}
                turns.append(_Turn(name, prepared, peaks))
                if (taken := time.monotonic() - began) > 5:
                    print(f"{subject.name} {name}: ready after {taken:.0f} s", flush=True)
        if first := next((turn for turn in turns if turn.name == ours and not heavy), None):
            turns.append(_Turn(ours + AGAIN, first.prepared, first.mib))
        for number in range(self.rounds):
            # Each round begins with another provider, so that none always follows the same one.
            start = number % max(1, len(turns))
            for turn in turns[start:] + turns[:start]:
                for mode in turn.mib:
                    with self._attempt(subject, turn.name, LIMIT):
                        turn.measure(mode, self.device, self.seconds / self.rounds)
                        continue
                    turns.remove(turn)  # it failed
                    break
        for turn in turns:
            if heavy and turn.name == ours:
                turn.name += AGAIN  # its own row is of the other group, some time before
            for mode, times in turn.times.items():
                row = row_of(subject, turn.name, mode, turn.prepared, summarise(*times), self.peaks)
                self.write({**row, "peak_mib": turn.mib[mode]})
        subject.release()
        tidy(self.device)

    def _attempt(self, subject: Subject, name: str, seconds: float) -> AbstractContextManager[None]:
        """Inside, a failure of a provider is a row; where the time of the session ended, it is left out."""

        def failed(failure: Exception) -> None:
            if isinstance(failure, TooLong) and time.monotonic() > self.until:
                self.left_out.append(f"{subject.name}: {name}")
            else:
                row = {"provider": name, "note": reason(failure), "command": _command(subject, name)}
                self.write(subject.about | row)

        return guarded(seconds * (1 if self.device.type == "cuda" else PATIENCE), self.device, failed)


def row_of(subject: Subject, provider: str, mode: str, prepared: Prepared, timing: Timing, peaks: DevicePeaks) -> Row:
    """The columns of a results file for one mode of a provider, without its memory."""
    needed = prepared.costs[mode]
    bound = peaks.lower_bound_ms(needed.flops, needed.bytes, subject.dtype)
    row: Row = dict(subject.about, provider=provider, mode=mode, command=_command(subject, provider))
    row |= timing.figures
    cpu = ""
    if used := prepared.cpu.get(mode):
        row["host_ms"] = 1e3 * statistics.median(used)
        cpu = f"{row['host_ms']:.4g} ms of CPU time"
    row["tflops"] = needed.flops / timing.median * 1e-9
    row["gbps"] = needed.bytes / timing.median * 1e-6 if needed.bytes else None
    row |= dict(roof_tflops=peaks.rate(subject.dtype) * 1e-12, roof_gbps=peaks.copy * 1e-9)
    row |= dict(floor_ms=bound, floor_share=bound / timing.median)
    row |= dict(first_call_s=prepared.first_call_s, error=prepared.error)
    row["note"] = "; ".join(filter(None, [package_version(provider), *prepared.notes, cpu]))
    if prepared.samples:
        # MFU: of the data sheet; where none is known, of what a large product reached in this run.
        known = peak_flops(torch.cuda.get_device_name(subject.device)) if subject.device.type == "cuda" else None
        peak = known if known and subject.dtype == torch.bfloat16 else peaks.rate(subject.dtype)
        row |= dict(rate=1e3 * prepared.samples / timing.median, unit="samples/s")
        row["mfu"] = needed.flops / timing.median * 1e3 / peak
    return row


def _command(subject: Subject, provider: str) -> str:
    """What measures a row again."""
    words = shlex.quote(provider.removesuffix(AGAIN))
    return f"python -m bench {subject.about['suite']} {subject.select} --provider {words}"
