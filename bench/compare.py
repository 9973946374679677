"""``python -m bench compare --base REF``: this tree and another commit in turns, on one device.

First a gate: results of this tree against a wider type, and against those of the other commit. Only then times. Each
side is a process with its own library, measured by the benchmark of this tree. Exit status 1: slower, or no longer
runs; 2: wrong results or none, or a bad request.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from bench import store
from bench.checks import correctness
from bench.measure.session import Prepared, Subject, matches, select
from bench.measure.timing import summarise, tidy
from bench.subjects import Operation, subjects
from vatt import results
from vatt.errors import UserError
from vatt.files import TREE
from vatt.kernels.timing import reason, sample
from vatt.process import Message, Process, ProcessFailed, Send, running, worker

# How far the results of two commits may lie apart, relative: other sums, same numbers.
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SLOWER, WRONG = 1, 2  # exit statuses
LIMIT = 600.0  # seconds for one answer
CONFIDENCE = 0.95
Rounds = list[list[float]]  # milliseconds of the calls of each round
LIBRARY = ("vatt", "kernels")


# In the process of a side.


class _Worker:
    """Holds the subject and the calls that were prepared last. Its methods answer requests of their names."""

    def __init__(self, device: str, threads: int, wanted: dict[str, Any]) -> None:
        self.device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        self.subjects = {subject.name: subject for subject in subjects(self.device, **wanted)}
        self.prepared: Prepared | None = None
        self.subject: Subject | None = None

    def hello(self) -> Message:
        return {"files": [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "vatt"]}

    def results(self, case: str, path: str, check: bool) -> Message:
        """Writes all outputs and gradients of our backend to a file, to compare them with those of the other side; and
        says, with ``check``, what is wrong with them against a wider type."""
        from safetensors.torch import save_file

        operation = self.subjects[case]
        assert isinstance(operation, Operation)
        rows = correctness.check(operation.case, 0.0, self.device, [operation.ours]) if check else ()
        wrong = [correctness.line(row) for row in rows if not row["passed"]]
        operation.release()  # inputs as they are made, not as measuring left them
        found = correctness.evaluate(operation.problem, operation.ours, operation.dtype)
        save_file({name: value.detach().cpu().clone().contiguous() for name, value in found.items()}, path)
        operation.release()
        return {"wrong": wrong}

    def prepare(self, case: str, provider: str) -> Message:
        self.release()
        self.subject = self.subjects[case]
        self.prepared = self.subject.prepare(provider)
        return {"modes": list(self.prepared.calls)}

    def measure(self, mode: str, seconds: float) -> Message:
        assert self.prepared is not None
        return {"ms": sample(self.prepared.calls[mode], self.device, seconds, self.prepared.refresh)[0]}

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


@contextmanager
def side(name: str, folder: Path, settings: Message) -> Iterator[Process]:
    """A worker with the library in ``folder``. Raises UserError if it imports another (an installed one, say)."""
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": paths, "PYTHONSAFEPATH": ""}
    with running(worker("bench.compare:serve", settings), folder=folder, environment=environment, name=name) as found:
        try:
            files = ask(found, "hello")["files"]
        except ProcessFailed as failure:  # a commit before a module that bench/ needs
            raise UserError(f"bench/ of this tree does not run with the library of {name}: {failure}") from failure
        # An installed library fills in modules that this one lacks: they would be compared with themselves.
        if others := [file for file in files if not Path(file).resolve().is_relative_to(folder.resolve())]:
            raise ProcessFailed(f"imports {others[0]}, which does not lie in {folder}", found)
        yield found


def ask(side: Process, do: str, **request: Any) -> Message:
    """The answer of a side. Raises ProcessFailed, whose message names it."""
    return side.ask({"do": do, **request}, LIMIT)


@contextmanager
def checkout(ref: str) -> Iterator[tuple[Path, str]]:
    """A folder with the library of a commit and the bench/ of this tree, gone when the block ends, and the full name of
    the commit. Raises UserError."""
    commit = _git(f"{ref!r} is no commit", "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").strip()
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as scratch:
        folder = Path(scratch)
        _git(f"no library in {commit[:12]}", "archive", f"--output={folder / 'library.tar'}", commit, *LIBRARY)
        safe: dict[str, Any] = (
            {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        )  # not in Python 3.11.0 to 3.11.3
        shutil.unpack_archive(folder / "library.tar", folder, **safe)
        (folder / "bench").symlink_to(TREE / "bench", target_is_directory=True)
        yield folder, commit


def _git(fault: str, *words: str) -> str:
    try:
        command = ["git", "-C", str(TREE), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    except subprocess.CalledProcessError as error:
        raise UserError(f"--base: {fault} of {TREE}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--base: git does not run: {error}") from error


class Comparison:
    """Two sides and what is asked of both."""

    def __init__(self, new: Process, base: Process, options: argparse.Namespace, commit: str) -> None:
        self.new, self.base, self.options = new, base, options
        self.failures: list[str] = []  # of this tree
        self.not_comparable: list[str] = []
        here = results.origin(torch.device(options.device), aside=options.results)
        if options.device == "cpu":
            here["threads"] = str(options.threads)
        self.origins = [here, {**here, "commit": commit[:12], "dirty": "False"}]

    def run(self, work: Sequence[tuple[Subject, str]]) -> int:
        """Compares the providers of subjects; the exit status."""
        operations = [subject for subject, _ in work if isinstance(subject, Operation)]
        gated = {f"{subject.name.rpartition('/p')[0]}/p0": subject for subject in operations}
        if wrong := [text for name, operation in gated.items() for text in self.gate(name, operation)]:
            print("wrong results, or none; nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
            return WRONG
        print("verdict   this tree / base, 95% interval, and medians")
        verdicts: list[str] = []
        slower = 0
        for subject, provider in work:
            for mode, verdict in self.times(subject, provider, self.options.mode).items():
                verdicts.append(verdict)
                if verdict == "SLOWER":
                    # Among many cases one looks slower by chance. It does not do so twice.
                    slower += "SLOWER" in self.times(subject, provider, [mode], " (measured again)").values()
        for text in self.not_comparable:
            print(f"not comparable: {text}")
        for text in self.failures:
            print(f"FAILED: {text}")
        threshold = self.options.threshold
        if slower or self.failures:
            print(f"{slower} slower by more than {threshold:.0%}, {len(self.failures)} no longer run")
            return SLOWER
        if not verdicts:
            print("nothing could be compared")
            return WRONG
        unclear = verdicts.count("unclear")
        open_ones = f", {unclear} of {len(verdicts)} are unclear" if unclear else ""
        print(f"none is slower by more than {threshold:.0%}{open_ones}")
        return 0

    def gate(self, name: str, operation: Operation) -> list[str]:
        """What is wrong with the results of our backend in this tree, without dropout; empty if nothing is."""
        from safetensors.torch import load_file

        wrong: list[str] = []
        try:
            with tempfile.TemporaryDirectory() as folder:
                paths = [str(Path(folder) / part) for part in ("new", "base")]
                wrong += ask(self.new, "results", case=name, path=paths[0], check=True)["wrong"]
                ask(self.base, "results", case=name, path=paths[1], check=False)
                return wrong + _apart(name, SAME[operation.dtype], *map(load_file, paths))
        except ProcessFailed as failure:
            if failure.process is self.new:
                return [f"{name}: {failure}"]
            self.not_comparable.append(f"results of {name}: {failure}")
            return wrong

    def times(self, subject: Subject, provider: str, modes: Sequence[str], words: str = "") -> dict[str, str]:
        """Verdicts by mode; each is measured in turns and printed, with ``words``. Modes that fail have none."""
        mode, sides, verdicts = "", (self.new, self.base), {}
        try:
            known = [ask(side, "prepare", case=subject.name, provider=provider)["modes"] for side in sides]
            for mode in (mode for mode in known[0] if mode in modes):
                times: tuple[Rounds, Rounds] = ([], [])
                request = dict(mode=mode, seconds=self.options.seconds / self.options.rounds)
                for number in range(self.options.rounds):
                    for index in (0, 1) if number % 2 else (1, 0):
                        times[index].append(ask(sides[index], "measure", **request)["ms"])
                found = ratio(*times)
                verdicts[mode] = found.verdict(self.options.threshold)
                head = f"{verdicts[mode]:>8}  {found.median:6.3f}x [{found.low:.3f}, {found.high:.3f}]"
                new, base = self._record(subject, provider, mode, times)
                print(f"{head}  {base:10.4g} -> {new:10.4g} ms  {subject.name} {mode} {provider}{words}", flush=True)
        except ProcessFailed as failure:
            lost = self.failures if failure.process is self.new else self.not_comparable
            lost.append(f"{' '.join(filter(None, (subject.name, mode, provider)))}: {failure}")
        for side in sides:
            with suppress(ProcessFailed):  # said above
                ask(side, "release")
        return verdicts

    def _record(self, subject: Subject, provider: str, mode: str, times: tuple[Rounds, Rounds]) -> list[float]:
        """The medians of both sides; their rows go to the results file, if one is named."""
        timings = [summarise(list(chain.from_iterable(rounds)), [0.0]) for rounds in times]
        command = f"python -m bench compare --base {self.options.base} {subject.select}"
        what = dict(subject.about, provider=provider, mode=mode, command=command)
        rows = [{**what, **timing.figures, "host_ms": None} for timing in timings]
        if self.options.results is not None:
            pairs = zip(self.origins, rows, strict=True)
            store.append(self.options.results, [{**origin, **row} for origin, row in pairs])
        return [timing.median for timing in timings]


def _apart(name: str, limit: float, new: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> list[str]:
    if {key: x.shape for key, x in new.items()} != {key: x.shape for key, x in base.items()}:
        return [f"{name}: other outputs than the base"]
    errors = {key: correctness.error(value, base[key]) for key, value in new.items()}
    words = "{}: {} lies {:.1e} from that of the base, more than {:g}"
    return [words.format(name, key, value, limit) for key, value in errors.items() if not value <= limit]


def compare(options: argparse.Namespace) -> int:
    """Compares what is selected; of the providers ours, unless others are asked for by name."""
    found = select(subjects(torch.device(options.device), **options.wanted), options.case)
    asked = {s: [name for name in s.providers if matches(name, options.provider)] for s in found}
    work = [(s, name) for s in found for name in ([s.ours] if options.provider == ["*"] else asked[s])]
    if not work:
        raise UserError(f"--case {options.case!r} and --provider match nothing; see ops --list and steps --list")
    if options.results is not None:
        store.append(options.results, [])  # a file that is none is told now
    settings = dict(device=options.device, threads=options.threads, wanted=options.wanted)
    with (
        checkout(options.base) as (folder, commit),
        side("this tree", TREE, settings) as new,
        side("base", folder, settings) as base,
    ):
        head = f"this tree against {commit[:12]}, {options.rounds} rounds in turns, threshold {options.threshold:.0%}"
        print(head, flush=True)
        return Comparison(new, base, options, commit).run(work)
