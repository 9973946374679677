"""Checks and measures the kernels on a GPU at the shapes of the models: the script of a first session.

``python -m bench check [--only STAGE] [--op NAME ...] [--out DIR] [--seconds S] [--resume]``

Stages: compile, correctness, speed, steps, sweep, train.

Writes correctness.csv, speed.csv and steps.csv (results files), sweep.csv, environment.json, summary.txt and train.log
under ``--out``, each row at once. Work is ordered by importance; what no longer fits into ``--seconds`` is named.
``--device cpu --tiny`` runs the same code on a CPU, the Triton kernels in its interpreter (set TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from bench import store
from bench.cases import OPS, TARGETS, cases
from bench.cases.base import TORCH, Target
from bench.checks import correctness
from bench.checks.correctness import rates
from bench.measure.peaks import DATASHEET
from bench.measure.session import BOTH, Session, Subject, Writer, matches, plan
from bench.measure.timing import DeviceLost
from bench.report.data import load, machines
from bench.report.summary import markdown
from bench.subjects import subjects
from bench.sweep import FIELDS, Sweep, ahead, compile_once, pool
from vatt.errors import UserError
from vatt.process import ProcessFailed, running
from vatt.results import Row, Table, number

TIMES, MOST_TIMES = "BENCH_CHECK_RESUMED", 12
say = partial(print, flush=True)
STAGES = ("compile", "correctness", "speed", "steps", "sweep", "train")
# Of the sweep: an operation.
SECONDS = {"compile": 240.0, "correctness": 420.0, "speed": 440.0, "steps": 440.0, "sweep": 180.0, "train": 480.0}


class Check:
    """One run of the script."""

    def __init__(self, options: argparse.Namespace, arguments: Sequence[str]) -> None:
        self.options, self.out, self.device = options, options.out, torch.device(options.device)
        self.ops, self.size = tuple(options.op or OPS), "tiny" if options.tiny else "gpu"
        self.left_out: list[str] = []
        self.notes: list[str] = []
        self.out.mkdir(parents=True, exist_ok=True)
        # A stage that is not asked for keeps the rows that it wrote before.
        kept = {stage: options.resume or options.only not in (None, stage) for stage in ("correctness", "sweep")}
        self.checked = Table(self.out / "correctness.csv", correctness.FIELDS, kept["correctness"])
        self.swept = Table(self.out / "sweep.csv", FIELDS, kept["sweep"])
        self.facts = store.write_environment(self.out / "environment.json", self.device, arguments, options.commit)

    def note(self, text: str) -> None:
        self.notes.append(text)
        say(text)

    def compile(self) -> None:
        """Compiles our kernels on all cores, so that the time of the other stages is not the compiler's."""
        if self.device.type != "cuda":
            return
        found = [(c, name, rate) for c in cases(self.size, self.ops) for name in c.backends for rate in rates(c)]
        tasks = [(*task, str(self.device)) for task in found]
        workers, began = pool(), time.monotonic()
        done = ahead(workers, compile_once, tasks, began + self.options.seconds["compile"])
        workers.shutdown(wait=False, cancel_futures=True)
        self.note(f"compiled ahead: {len(done)} of {len(tasks)} in {time.monotonic() - began:.0f} s")
        for index, failure in done.items():
            if failure:
                case, name, rate = found[index]
                say(f"  {case.op} {case.name} p={rate} {name}: {failure}")

    def correctness(self) -> None:
        until = time.monotonic() + self.options.seconds["correctness"]
        for case in cases(self.size, self.ops):
            for rate in reversed(rates(case)):  # without dropout first: there results are compared
                find = partial(self.checked.find, op=case.op, case=case.name, dropout=rate)
                todo = [name for name in case.backends if not (find(backend=name) or find(backend=TORCH))]
                if not todo:
                    continue
                if time.monotonic() > until:
                    self.left_out.append(f"correctness {case.op} {case.name} p={rate}")
                    continue
                for row in correctness.check(case, rate, self.device, todo):
                    self.checked.add(row)
                    if not row["passed"]:
                        say(correctness.line(row))
        say(f"correctness: {len(self.checked.rows)} rows")

    def speed(self) -> None:
        self._measure("speed", subjects(self.device, self.size, self.ops, steps=(), kernels=True))

    def steps(self) -> None:
        """Whole steps of each preset with a fixed batch, which waits for no loader."""
        if self.device.type != "cuda":
            self.note("steps: left out, not on a CPU: python -m bench steps")
            return
        self._measure("steps", subjects(self.device, self.size, ops=()))

    def _measure(self, stage: str, found: Sequence[Subject]) -> None:
        tiny, path, until = self.options.tiny, self.out / f"{stage}.csv", time.monotonic() + self.options.seconds[stage]
        if not self.options.resume:
            path.unlink(missing_ok=True)
        writer = Writer(path, self.device, self.options.resume, self.options.commit, any_origin=True)
        peaks = writer.peaks(self.size)
        rates = f"{peaks.copy / 1e12:.3f} TB/s, matmul {peaks.matmul / 1e12:.0f}, tf32 {peaks.tf32 / 1e12:.0f} TFLOP/s"
        share = f"{peaks.copy / DATASHEET.copy:.0%} and {peaks.matmul / DATASHEET.matmul:.0%}"
        self.note(f"device peaks: copy {rates} ({share} of an H100's data sheet)")
        seconds, rounds = (0.0, 1) if tiny else (0.35, 3)
        session = Session(writer, self.device, peaks, seconds, until, rounds, known=writer.known)
        for subject, heavy in plan(found):
            if not tiny or subject.rank == 0:  # each kind of provider once is enough
                session.run(subject, heavy)
        self.left_out += [f"{stage} {words}" for words in session.left_out]

    def sweep(self) -> None:
        with closing(Sweep(self.swept, self.device, self.options.tiny)) as sweep:
            for op in self.ops:
                for line in sweep.run(op, self.options.seconds["sweep"]):
                    self.note(line)

    def train(self) -> None:
        launcher = shutil.which("deepspeed", path=str(Path(sys.executable).parent))
        command = [launcher or "deepspeed", "train/pretrain.py", "--config", "sample-gpu"]
        command += ["--out", str(self.out / "train"), f"run.steps={self.options.steps}"]
        log = self.out / "train.log"
        if launcher is None or self.device.type != "cuda":
            reason = "not on a CPU" if self.device.type != "cuda" else "deepspeed is not installed"
            self.note(f"train: left out, {reason}: {' '.join(command)}")
            log.write_text(self.notes[-1] + "\n")
            return
        shell = ["bash", "-c", '"${@:2}" > "$1" 2>&1', "bash", str(log), *command]
        try:
            with running(shell, limit=self.options.seconds["train"]) as process:
                process.finish()
            self.note("train: exit status 0")
        except ProcessFailed as failure:
            self.note(f"train: {failure}")
        say("\n".join(log.read_text(errors="replace").splitlines()[-12:]))

    def finish(self) -> int:
        """Writes and prints the summary; 1 if a tensor failed."""
        facts, paths = self.facts, [self.out / "speed.csv", self.out / "steps.csv"]
        timed = load([path for path in paths if path.exists()])
        head = f"{facts['device']}, driver {facts['driver']}, torch {facts['torch']}, triton {facts['triton']}, "
        lines = [f"{head}commit {facts['commit'][:12]}{' with changes' if facts['dirty'] == 'True' else ''}"]
        if self.device.type != "cuda":
            lines.append("on a CPU: the times below say nothing about the kernels")
        lines += markdown(machines(timed)).splitlines() if timed else []
        lines += [*self.notes, *judged(self.checked.rows)]
        lines += [*(f"left out, no time: {what}" for what in self.left_out), *targets(timed)]
        (self.out / "summary.txt").write_text("\n".join(lines) + "\n")
        say("\n" + "\n".join(lines))
        return 1 if any(row["passed"] != "True" for row in self.checked.rows) else 0


def judged(rows: Sequence[Row]) -> Iterator[str]:
    """Counts, the worst tensor of each operation (its error as a share of the bound), and what failed."""
    if not rows:
        return
    failed = [row for row in rows if row["passed"] != "True"]
    yield f"correctness: {len(rows) - len(failed)} of {len(rows)} tensors pass"
    for op in dict.fromkeys(row["op"] for row in rows):
        shares = [(float(row["error"]) / float(row["bound"]), row) for row in rows if row["op"] == op and row["error"]]
        if shares:
            share, row = max(shares, key=lambda pair: pair[0])
            where = f"{row['case']} {row['backend']} {row['tensor']}"
            yield f"  {op}: the worst is {row['error']} of at most {float(row['bound']):.3g} ({share:.0%}): {where}"
    for row in failed:
        what = row["note"] or f"error {row['error']} bound {row['bound']} nans {row['nans']} bits {row['same_bits']}"
        yield f"  FAILED {row['op']} {row['case']} p={row['dropout']} {row['backend']} {row['tensor']}: {what}"


def targets(rows: Sequence[Row]) -> Iterator[str]:
    """Each target of bench/LOG.md at each of its cases, forward and backward: met, missed, or not measured."""
    of: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["ms"] and row["mode"] == BOTH:
            of.setdefault((row["op"], row["case"], row["dropout"]), {})[row["provider"]] = row
    for op, found in TARGETS.items():
        for target in found:
            for key, by_provider in of.items():
                if key[0] == op and key[1] in target.cases:
                    yield f"target: {op} {key[1]} p={key[2]} {target.text}: {_verdict(target, by_provider)}"


def _verdict(target: Target, of: dict[str, Row]) -> str:
    ours = number(of.get(target.ours, {}), target.measure)
    if target.measure == "floor_share":
        found, words = ours, f"{ours or 0:.0%}"
    else:
        others = [name for name in of if matches(name, target.against) and not matches(name, target.but)]
        figures = {name: number(of[name], target.measure) for name in others}
        theirs = min(((value, name) for name, value in figures.items() if value), default=None)
        found = theirs[0] / ours if theirs and ours else None
        words = f"{found or 0:.2f}x of {theirs[1] if theirs else ''}"
    return "not measured" if found is None else f"{'met' if found >= target.least else 'MISSED'} ({words})"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench check", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", choices=STAGES, help="one stage; default: all")
    parser.add_argument("--op", nargs="+", choices=OPS, help="these operations; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-check"), help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes in float32")
    parser.add_argument("--seconds", type=float, help=f"a stage, of the sweep an operation; default: {SECONDS}")
    parser.add_argument("--commit", help="of this tree, where it is no clone and git cannot tell")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are in --out and add the others")
    parser.add_argument("--steps", type=int, default=60, help="of --only train")
    options = parser.parse_args(arguments)
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds: {options.seconds:g} is not above 0")
    options.seconds = {stage: options.seconds or seconds for stage, seconds in SECONDS.items()}
    return options


def main(arguments: Sequence[str]) -> int:
    """1 if a tensor failed. Raises UserError."""
    options, began = parse(arguments), time.monotonic()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here; --device cpu --tiny runs the same code on a CPU")
    if options.tiny:
        torch.set_num_threads(1)  # for such sizes a second thread only waits
    run = Check(options, arguments)
    try:
        for stage in STAGES if options.only is None else (options.only,):
            getattr(run, stage)()
    except DeviceLost as failure:
        say(f"the device no longer answers ({failure}): going on in a new process")
        _again(arguments, began, options)
    return run.finish()


def _again(arguments: Sequence[str], began: float, options: argparse.Namespace) -> None:
    """Goes on in a fresh process, whose device answers: with --resume, and the time that is left."""
    times = int(os.environ.get(TIMES, "0")) + 1
    if times > MOST_TIMES:
        raise UserError(f"the device was lost {times} times")
    os.environ[TIMES] = str(times)
    rest = [argument for argument in arguments if argument != "--resume"]
    if options.only in ("correctness", "speed"):
        rest += ["--seconds", f"{max(1.0, options.seconds[options.only] - (time.monotonic() - began)):.0f}"]
    os.execv(sys.executable, [sys.executable, "-m", "bench", "check", *rest, "--resume"])
