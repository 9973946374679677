"""``python -m bench compare --base REF``: this tree and another commit in turns, on one device.

First a gate: results of this tree against a wider type, and against those of the other commit. Only then times. Each
side is a process with its own library, measured by the benchmark of this tree. Exit status 1: slower, or no longer
runs; 2: wrong results, or a bad request.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import vatt
from bench import ROOT, store
from bench.checks import correctness
from bench.measure.process import Message, Process, ProcessFailed, Send, running, worker
from bench.measure.session import Prepared, Selection, Subject
from bench.measure.timing import reason, sample, summarise, tidy
from bench.subjects import Operation, Request
from vatt import results
from vatt.errors import UserError

# How far the results of two commits may lie apart, relative: other sums, same numbers.
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SLOWER, WRONG = 1, 2  # exit statuses
LIMIT = 600.0  # seconds for one answer
CONFIDENCE = 0.95
LIBRARY = ("vatt", "kernels")


class TreeError(UserError, ValueError):
    """A commit that cannot be checked out; the message says why."""


class SideFailed(UserError, RuntimeError):
    """A request that failed on one side, or a worker that died or was too slow. The message names the side."""

    def __init__(self, side: Side, message: object) -> None:
        super().__init__(f"{side.name}: {message}")
        self.side = side


# In the process of a side.


class _Worker:
    """Holds the subject and the calls that were prepared last. Its methods answer requests of their names."""

    def __init__(self, device: str, threads: int, request: dict[str, Any]) -> None:
        self.device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        self.subjects = {subject.name: subject for subject in Request(**request).subjects(self.device)}
        self.prepared: Prepared | None = None
        self.subject: Subject | None = None

    def hello(self) -> Message:
        return {"library": str(Path(vatt.__file__).resolve().parent)}

    def prepare(self, case: str, provider: str) -> Message:
        self.release()
        self.subject = self.subjects[case]
        self.prepared = self.subject.prepare(provider)
        return {"modes": list(self.prepared.calls)}

    def measure(self, mode: str, seconds: float) -> Message:
        assert self.prepared is not None
        return {"ms": sample(self.prepared.calls[mode], self.device, seconds, self.prepared.refresh)[0]}

    def check(self, case: str, backends: list[str]) -> Message:
        """What is wrong with the results of an operation, against a wider type."""
        rows = list(correctness.check(self._operation(case).case, 0.0, self.device, backends))
        return {"wrong": [correctness.line(row) for row in rows if not row["passed"]]}

    def outputs(self, case: str, provider: str, path: str) -> Message:
        """Writes all outputs and gradients of an operation to a file, for the other side to compare."""
        from safetensors.torch import save_file

        operation = self._operation(case)
        operation.release()  # inputs as they are made, not as measuring left them
        found = correctness.evaluate(operation.problem, provider, operation.dtype)
        save_file({name: value.detach().cpu().clone().contiguous() for name, value in found.items()}, path)
        operation.release()
        return {}

    def _operation(self, case: str) -> Operation:
        subject = self.subjects[case]
        assert isinstance(subject, Operation)
        return subject

    def release(self) -> Message:
        self.prepared = None
        if self.subject is not None:
            self.subject.release()
        tidy(self.device)
        return {}


def serve(settings: Message, send: Send, requests: Iterator[Message]) -> None:
    """Does what each request asks for. A failure is an answer too."""
    side = _Worker(**settings)
    for request in requests:
        try:
            send(getattr(side, request.pop("do"))(**request))
        except Exception as failure:  # whatever a compiler or a driver raises is the answer
            send({"failed": reason(failure)})


# In the process that compares.


@dataclass(frozen=True)
class Ratio:
    """Time of this tree over that of the base: the median over rounds, and the interval that holds it."""

    median: float
    low: float
    high: float

    def verdict(self, threshold: float) -> str:
        """ "SLOWER" or "faster" if the whole interval lies beyond the threshold, "unclear" if only the median does."""
        if self.low > 1 + threshold:
            return "SLOWER"
        if self.high < 1 / (1 + threshold):
            return "faster"
        beyond = self.median > 1 + threshold or self.median < 1 / (1 + threshold)
        return "unclear" if beyond else "same"


def least_rounds() -> int:
    """With fewer, not even the smallest and the largest ratio hold the median with CONFIDENCE."""
    return math.ceil(1 - math.log2(1 - CONFIDENCE))


def ratio(new: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> Ratio:
    """From the times of both sides, round by round.

    The two medians of a round were taken next to each other, so a machine that grows slower divides out. The interval
    is between two order statistics of the ratios: it assumes no distribution and holds the median with CONFIDENCE.

    Raises:
        ValueError: fewer rounds than `least_rounds`, or sides of different length.
    """
    found = sorted(statistics.median(a) / statistics.median(b) for a, b in zip(new, base, strict=True))
    count = len(found)
    if count < least_rounds():
        raise ValueError(f"{count} rounds; at least {least_rounds()} are needed for {CONFIDENCE:.0%} confidence")
    # Probability that the median lies below the smallest, then below the second smallest, ...
    outside, cut = 0.5**count, 0
    while 2 * (more := outside + math.comb(count, cut + 1) * 0.5**count) <= 1 - CONFIDENCE:
        outside, cut = more, cut + 1
    return Ratio(statistics.median(found), found[cut], found[-1 - cut])


@dataclass(frozen=True)
class Side:
    """A worker with the library of one tree."""

    name: str
    process: Process

    def ask(self, do: str, **request: Any) -> Message:
        """The answer to a request. Raises SideFailed."""
        try:
            return self.process.ask({"do": do, **request}, LIMIT)
        except ProcessFailed as failure:
            raise SideFailed(self, failure) from failure


@contextmanager
def side(name: str, folder: Path, settings: Message) -> Iterator[Side]:
    """The side whose library is in ``folder``. Raises SideFailed if it imports another (an installed one, say)."""
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": paths, "PYTHONSAFEPATH": ""}
    with running(worker("bench.compare:serve", settings), folder=folder, environment=environment) as process:
        found = Side(name, process)
        library = Path(found.ask("hello")["library"])
        if library != (folder / "vatt").resolve():
            raise SideFailed(found, f"imports the library in {library}, not that of {folder}")
        yield found


@contextmanager
def checkout(ref: str) -> Iterator[tuple[Path, str]]:
    """A folder with the library of a commit and the bench/ of this tree (a git worktree with links to it, gone when the
    block ends), and the full name of the commit. Raises TreeError."""
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as scratch:
        tree, mixed = Path(scratch) / "tree", Path(scratch) / "mixed"
        commit = _git(f"{ref!r} is no commit", "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").strip()
        _git("no worktree", "worktree", "add", "--detach", "--force", str(tree), commit)
        try:
            mixed.mkdir()
            for name in LIBRARY:
                if not (tree / name).is_dir():
                    raise TreeError(f"--base: {commit[:12]} has no folder {name}/")
                (mixed / name).symlink_to(tree / name, target_is_directory=True)
            (mixed / "bench").symlink_to(ROOT / "bench", target_is_directory=True)
            yield mixed, commit
        finally:
            with suppress(TreeError):
                _git("", "worktree", "remove", "--force", str(tree))


def _git(fault: str, *words: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    except subprocess.CalledProcessError as error:
        raise TreeError(f"--base: {fault} of {ROOT}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TreeError(f"--base: git does not run: {error}") from error


@dataclass(frozen=True)
class Found:
    """One mode of one case, compared: milliseconds of both sides by round."""

    subject: Subject
    provider: str
    mode: str
    new: list[list[float]]
    base: list[list[float]]

    @property
    def ratio(self) -> Ratio:
        return ratio(self.new, self.base)

    def line(self, threshold: float) -> str:
        base, new = (statistics.median(chain.from_iterable(times)) for times in (self.base, self.new))
        found = self.ratio
        head = f"{found.verdict(threshold):>8}  {found.median:6.3f}x [{found.low:.3f}, {found.high:.3f}]"
        return f"{head}  {base:10.4g} -> {new:10.4g} ms  {self.subject.name} {self.mode} {self.provider}"


class Comparison:
    """Two sides and what is asked of both."""

    def __init__(self, new: Side, base: Side, options: argparse.Namespace, commit: str) -> None:
        self.new, self.base, self.options = new, base, options
        self.failures: list[str] = []  # of this tree
        self.not_comparable: list[str] = []
        here = results.origin(torch.device(options.device), aside=options.results)
        if options.device == "cpu":
            here["threads"] = str(options.threads)
        self.origins = {"new": here, "base": {**here, "commit": commit[:12], "dirty": "False"}}

    def gate(self, name: str, operation: Operation) -> list[str]:
        """What is wrong with the results of our backend in this tree, without dropout; empty if nothing is."""
        from safetensors.torch import load_file

        try:
            wrong = list(self.new.ask("check", case=name, backends=[operation.ours])["wrong"])
            with tempfile.TemporaryDirectory() as folder:
                request = dict(case=name, provider=operation.ours)
                paths = [str(Path(folder) / part) for part in ("new", "base")]
                self.new.ask("outputs", **request, path=paths[0])
                self.base.ask("outputs", **request, path=paths[1])
                return wrong + _apart(name, SAME[operation.dtype], *map(load_file, paths))
        except SideFailed as failure:
            if failure.side is self.new:
                return [f"{name}: {failure}"]
            self.not_comparable.append(f"results of {name}: {failure}")
            return wrong

    def times(self, subject: Subject, provider: str, modes: Sequence[str]) -> Iterator[Found]:
        """All modes of a case; each is added to the results file, if one is named."""
        mode = ""
        try:
            request = dict(case=subject.name, provider=provider)
            known = self.new.ask("prepare", **request)["modes"]
            self.base.ask("prepare", **request)
            for mode in (mode for mode in known if mode in modes):
                found = Found(subject, provider, mode, [], [])
                sides = [(self.new, found.new), (self.base, found.base)]
                seconds = self.options.seconds / self.options.rounds
                for number in range(self.options.rounds):
                    for one, times in sides if number % 2 else sides[::-1]:
                        times.append(one.ask("measure", mode=mode, seconds=seconds)["ms"])
                self._write(found)
                yield found
        except SideFailed as failure:
            lost = self.failures if failure.side is self.new else self.not_comparable
            lost.append(f"{' '.join(filter(None, (subject.name, mode, provider)))}: {failure}")
        for one in (self.new, self.base):
            with suppress(SideFailed):  # said above
                one.ask("release")

    def _write(self, found: Found) -> None:
        if self.options.results is None:
            return
        command = f"python -m bench compare --base {self.options.base} {found.subject.select}"
        what = dict(found.subject.about, provider=found.provider, mode=found.mode, command=command)
        rows = []
        for origin, times in zip(self.origins.values(), (found.new, found.base), strict=True):
            timing = summarise(list(chain.from_iterable(times)), [0.0])
            rows.append({**origin, **what, **timing.figures, "host_ms": None})
        store.append(self.options.results, rows)


def _apart(name: str, limit: float, new: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> list[str]:
    if {key: x.shape for key, x in new.items()} != {key: x.shape for key, x in base.items()}:
        return [f"{name}: other outputs than the base"]
    errors = {key: correctness.error(value, base[key]) for key, value in new.items()}
    words = "{}: {} lies {:.1e} from that of the base, more than {:g}"
    return [words.format(name, key, value, limit) for key, value in errors.items() if not value <= limit]


def compare(options: argparse.Namespace, request: Request, selection: Selection) -> int:
    """Compares what is selected; of the providers ours, unless others are asked for by name."""
    subjects = [subject for subject in request.subjects(torch.device(options.device)) if selection.subject(subject)]
    only_ours = selection.providers == ("*",)
    names = {s: [s.ours] if only_ours else filter(selection.provider, s.providers) for s in subjects}
    work = [(subject, name) for subject, found in names.items() for name in found]
    if not work:
        raise UserError(f"--case {options.case!r} and --provider match nothing; see --list")
    settings = dict(device=options.device, threads=options.threads, request=asdict(request))
    with (
        checkout(options.base) as (folder, commit),
        side("this tree", ROOT, settings) as new,
        side("base", folder, settings) as base,
    ):
        head = f"this tree against {commit[:12]}, {options.rounds} rounds in turns, threshold {options.threshold:.0%}"
        print(head, flush=True)
        return _compare(Comparison(new, base, options, commit), work)


def _compare(comparison: Comparison, work: Sequence[tuple[Subject, str]]) -> int:
    options = comparison.options
    operations = [subject for subject, _ in work if isinstance(subject, Operation)]
    gated = {f"{subject.name.rpartition('/p')[0]}/p0": subject for subject in operations}
    if wrong := [text for name, subject in gated.items() for text in comparison.gate(name, subject)]:
        print("wrong results; nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return WRONG
    verdicts: list[str] = []
    slower = 0
    print("verdict   this tree / base, 95% interval, and medians")
    for subject, provider in work:
        for found in list(comparison.times(subject, provider, options.mode)):
            print(found.line(options.threshold), flush=True)
            verdicts.append(found.ratio.verdict(options.threshold))
            if verdicts[-1] == "SLOWER":
                # Among many cases one looks slower by chance. It does not do so twice.
                for again in comparison.times(subject, provider, [found.mode]):
                    print(again.line(options.threshold) + " (measured again)", flush=True)
                    slower += again.ratio.verdict(options.threshold) == "SLOWER"
    for text in comparison.not_comparable:
        print(f"not comparable: {text}")
    for text in comparison.failures:
        print(f"FAILED: {text}")
    if slower or comparison.failures:
        print(f"{slower} slower by more than {options.threshold:.0%}, {len(comparison.failures)} no longer run")
        return SLOWER
    if not verdicts:
        print("nothing could be compared")
        return WRONG
    unclear = verdicts.count("unclear")
    open_ones = f", {unclear} of {len(verdicts)} are unclear" if unclear else ""
    print(f"none is slower by more than {options.threshold:.0%}{open_ones}")
    return 0
