"""``python -m bench.run --base REF``: this tree and another commit side by side, in turns, on one device.

First a gate: results of this tree against a wider type, and against those of the other commit. Only then times.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from bench import ROOT, store
from bench.evaluate import error
from bench.measure.timing import summarise
from bench.suite.catalogue import subjects
from bench.suite.prepared import Subject
from bench.suite.ratios import Ratio, ratio
from bench.suite.session import Choice
from bench.suite.side import Side, SideFailed
from bench.suite.tree import TreeError, checkout, resolve

# How far the results of two commits may lie apart, relative: other sums, same numbers.
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SLOWER, WRONG = 1, 2  # exit statuses


@dataclass(frozen=True)
class Found:
    """One mode of one case, compared."""

    case: str
    provider: str
    mode: str
    ratio: Ratio
    new_ms: float
    base_ms: float


class Comparison:
    """Two workers and what is asked of both."""

    def __init__(self, new: Side, base: Side, options: argparse.Namespace, seconds: float) -> None:
        self.new, self.base, self.options, self.seconds = new, base, options, seconds
        self.failures: list[str] = []  # of this tree
        self.not_comparable: list[str] = []

    def gate(self, case: str, subject: Subject) -> list[str]:
        """What is wrong with the results of our backend in this tree; empty if nothing is."""
        try:
            wrong = list(self.new.ask("check", case=case, backends=[subject.ours])["wrong"])
            with tempfile.TemporaryDirectory() as folder:
                ours, theirs = str(Path(folder) / "new"), str(Path(folder) / "base")
                self.new.ask("outputs", case=case, provider=subject.ours, path=ours)
                try:
                    self.base.ask("outputs", case=case, provider=subject.ours, path=theirs)
                except SideFailed as failure:
                    self.not_comparable.append(f"results of {case}: {failure}")
                    return wrong
                return wrong + _apart(case, SAME[subject.dtype], ours, theirs)
        except SideFailed as failure:
            return [f"{case}: {failure}"]

    def times(self, subject: Subject, provider: str, modes: list[str]) -> list[tuple[Found, dict[str, Any]]]:
        """All modes of a case, each with the times of both sides by round."""
        request = dict(case=subject.name, provider=provider)
        try:
            known = self.new.ask("prepare", **request)["modes"]
        except SideFailed as failure:
            self.failures.append(f"{subject.name} {provider}: {failure}")
            return []
        try:
            self.base.ask("prepare", **request)
        except SideFailed as failure:
            self.not_comparable.append(f"{subject.name} {provider}: {failure}")
            return []
        found = []
        for mode in (mode for mode in known if mode in modes):
            try:
                new, base = self._rounds(mode)
            except SideFailed as failure:
                lost = self.failures if failure.side is self.new else self.not_comparable
                lost.append(f"{subject.name} {mode} {provider}: {failure}")
                break
            medians = [statistics.median(chain.from_iterable(side)) for side in (new, base)]
            found.append((Found(subject.name, provider, mode, ratio(new, base), *medians), dict(new=new, base=base)))
        for side in (self.new, self.base):
            with contextlib.suppress(SideFailed):  # said above
                side.ask("release")
        return found

    def _rounds(self, mode: str) -> tuple[list[list[float]], list[list[float]]]:
        times: dict[str, list[list[float]]] = {"new": [], "base": []}
        sides = [("new", self.new), ("base", self.base)]
        for number in range(self.options.rounds):
            for name, side in sides if number % 2 else sides[::-1]:
                try:
                    answer = side.ask("measure", mode=mode, seconds=self.seconds / self.options.rounds)
                except SideFailed as failure:
                    failure.side = side
                    raise
                times[name].append(answer["ms"])
        return times["new"], times["base"]


def _without_dropout(work: list[tuple[Subject, str]]) -> dict[str, Subject]:
    """The operations by the name of their case without dropout, where results can be compared."""
    ops = [subject for subject, _ in work if subject.about["suite"] == "ops"]
    return {f"{subject.name.rpartition('/p')[0]}/p0": subject for subject in ops}


def _apart(case: str, limit: float, ours: str, theirs: str) -> list[str]:
    from safetensors.torch import load_file

    new, base = load_file(ours), load_file(theirs)
    if {name: x.shape for name, x in new.items()} != {name: x.shape for name, x in base.items()}:
        return [f"{case}: other outputs than the base"]
    errors = {name: error(value, base[name]) for name, value in new.items()}
    return [
        f"{case}: {name} lies {value:.1e} from that of the base, more than {limit:g}"
        for name, value in errors.items()
        if not value <= limit
    ]


def own_providers(subject: Subject, patterns: list[str]) -> list[str]:
    """Ours, unless others were asked for by name."""
    if patterns == ["*"]:
        return [subject.ours]
    return [name for name in subject.providers if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def line(found: Found, threshold: float) -> str:
    """A comparison as one line of text."""
    low, high = found.ratio.low, found.ratio.high
    times = f"{found.base_ms:10.4g} -> {found.new_ms:10.4g} ms"
    return (
        f"{found.ratio.verdict(threshold):>8}  {found.ratio.median:6.3f}x [{low:.3f}, {high:.3f}]  {times}  "
        f"{found.case} {found.mode} {found.provider}"
    )


def main(options: argparse.Namespace) -> int:
    """0: no slower; 1: slower, or no longer runs; 2: wrong results, or a request that cannot be met."""
    from bench.run import SECONDS, wish

    device = torch.device(options.device)
    choice = Choice(options.case, tuple(options.provider), tuple(options.mode))
    wished = wish(options)
    todo = [s for s in subjects(wished, device, kernels=device.type == "cuda") if choice.subject(s)]
    work = [(subject, name) for subject in todo for name in own_providers(subject, options.provider)]
    if not work:
        print(f"bench.run: --case {options.case!r} and --provider match nothing; see --list", file=sys.stderr)
        return WRONG
    settings = dict(device=options.device, threads=options.threads or store.cores(), wish=asdict(wished))
    seconds = SECONDS[options.size] if options.seconds is None else options.seconds
    try:
        commit = resolve(options.base)
        with (
            checkout(commit) as folder,
            Side("this tree", ROOT, settings) as new,
            Side("base", folder, settings) as base,
        ):
            _same_benchmark(new, base, folder)
            return _compare(Comparison(new, base, options, seconds), work, commit)
    except (TreeError, SideFailed) as failure:
        print(f"bench.run: {failure}", file=sys.stderr)
        return WRONG


def _same_benchmark(new: Side, base: Side, folder: Path) -> None:
    """Raises SideFailed if a side imports another library than that of its folder (an installed one, say)."""
    for side, tree in ((new, ROOT), (base, folder)):
        library = Path(side.ask("hello")["library"])
        if library != (tree / "vatt").resolve():
            raise SideFailed(f"{side.name}: imports the library in {library}, not that of {tree}")


def _compare(comparison: Comparison, work: list[tuple[Subject, str]], commit: str) -> int:
    options = comparison.options
    print(
        f"this tree against {commit[:12]}, {options.rounds} rounds in turns, threshold {options.threshold:.0%}",
        flush=True,
    )
    wrong = []
    for name, subject in _without_dropout(work).items():
        wrong += comparison.gate(name, subject)
    if wrong:
        print("wrong results; nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return WRONG
    sink, slower, compared, unclear = _Rows(options, commit), [], 0, 0
    print("verdict   this tree / base, 95% interval, and medians")
    for subject, provider in work:
        for found, times in comparison.times(subject, provider, options.mode):
            print(line(found, options.threshold), flush=True)
            sink.add(subject, found, times)
            compared += 1
            unclear += found.ratio.verdict(options.threshold) == "unclear"
            if found.ratio.verdict(options.threshold) == "SLOWER":
                # Among many cases one looks slower by chance. It does not do so twice.
                for again, more in comparison.times(subject, provider, [found.mode]):
                    print(line(again, options.threshold) + " (measured again)", flush=True)
                    sink.add(subject, again, more)
                    slower += [again] if again.ratio.verdict(options.threshold) == "SLOWER" else []
    for text in comparison.not_comparable:
        print(f"not comparable: {text}")
    for text in comparison.failures:
        print(f"FAILED: {text}")
    if slower or comparison.failures:
        print(f"{len(slower)} slower by more than {options.threshold:.0%}, {len(comparison.failures)} no longer run")
        return SLOWER
    if not compared:
        print("nothing could be compared")
        return WRONG
    open_ones = f", {unclear} of {compared} are unclear" if unclear else ""
    print(f"none is slower by more than {options.threshold:.0%}{open_ones}")
    return 0


class _Rows:
    """Appends what both sides took to the results file, if one is named."""

    def __init__(self, options: argparse.Namespace, commit: str) -> None:
        self.path, self.base = options.results, options.base
        here = store.origin(torch.device(options.device))
        if options.device == "cpu":
            here["threads"] = str(options.threads or store.cores())
        self.origins = {"new": here, "base": {**here, "commit": commit[:12], "dirty": "False"}}

    def add(self, subject: Subject, found: Found, times: dict[str, list[list[float]]]) -> None:
        if self.path is None:
            return
        command = f"python -m bench.run --base {self.base} {subject.select}"
        rows = []
        for side, origin in self.origins.items():
            timing = summarise(list(chain.from_iterable(times[side])), [0.0])
            row = {**origin, **subject.about, "provider": found.provider, "mode": found.mode, "ms": timing.median}
            row |= dict(ms_p20=timing.p20, ms_p80=timing.p80, repeats=timing.repeats, command=command)
            rows.append(row)
        store.append(self.path, rows)
