"""Checks and measures the kernels on a GPU at the shapes of the models.

``python -m bench.gpu [--only correctness|speed|sweep|train] [--op NAME ...] [--out DIR] [--seconds S]``

Writes correctness.csv, speed.csv, sweep.csv, environment.json, summary.txt and train.log under ``--out``, each row at
once. Work is ordered by importance; what no longer fits into ``--seconds`` is named. ``--device cpu --tiny`` runs the
same code on a CPU, the Triton kernels in its interpreter (set TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from bench import ROOT, correctness, store, summary, sweep
from bench.measure.peaks import DATASHEET, Roofs
from bench.measure.timing import DeviceLost
from bench.shapes import OPS, shapes
from bench.store import Table, write_environment
from bench.suite.catalogue import plan
from bench.suite.ops import op_subjects
from bench.suite.session import Budget, Session
from bench.suite.sink import Sink, roofs
from bench.sweep_targets import TARGETS
from bench.warm import pool

TIMES, MOST_TIMES = "BENCH_GPU_RESUMED", 12
STAGES = ("correctness", "speed", "sweep", "train")
SECONDS = {"correctness": 420.0, "speed": 440.0, "sweep": 180.0, "train": 480.0}  # of the sweep: an operation


class Run:
    """One run of the script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, self.device = options, options.out, torch.device(options.device)
        self.out.mkdir(parents=True, exist_ok=True)
        self.ops = tuple(options.op or OPS)
        self.left_out: list[str] = []
        self.notes: list[str] = []
        self.size = "tiny" if options.tiny else "gpu"
        modules = {"correctness": correctness, "sweep": sweep}
        self.tables = {
            stage: Table(self.out / f"{stage}.csv", module.FIELDS, options.resume)  # type: ignore[attr-defined]
            for stage, module in modules.items()
        }
        self.facts = write_environment(self.out / "environment.json", self.device, sys.argv[1:], options.commit)

    def seconds(self, stage: str) -> float:
        return self.options.seconds or SECONDS[stage]

    def correctness(self) -> None:
        until, table = time.monotonic() + self.seconds("correctness"), self.tables["correctness"]
        todo = [(shape, p) for shape in shapes(self.size, self.ops) for p in correctness.cases(shape)]
        for shape, p in todo:
            key = dict(op=shape.op, case=shape.name, dropout=p)
            if table.find(**key):
                continue
            if time.monotonic() > until:
                self.left_out.append(f"correctness {shape.op} {shape.name} p={p}")
                continue
            for row in correctness.check(shape, p, self.device):
                table.add(row)
                if not row["passed"]:
                    say(correctness.line(row))
        say(f"correctness: {len(table.rows)} rows")

    def speed(self) -> None:
        """Rows of the schema of `bench.store`: `bench.report` reads them as they are."""
        tiny, until = self.options.tiny, time.monotonic() + self.seconds("speed")
        if not self.options.resume:
            (self.out / "speed.csv").unlink(missing_ok=True)
        sink = Sink(self.out / "speed.csv", self.device, self.options.resume, self.options.commit, same=())
        found = roofs(sink, self.device, self.size)
        self.notes.append(_roof_line(found))
        say(self.notes[-1])
        budget = Budget(0.0 if tiny else 0.35, until, rounds=1 if tiny else 3)
        session = Session(sink, self.device, found, budget, known=sink.known)
        for subject, heavy in plan(op_subjects(self.size, self.ops, self.device, kernels=True)):
            if not tiny or subject.rank == 0:  # each kind of provider once is enough
                session.run(subject, heavy)
        self.left_out += [f"speed {words}" for words in session.left_out]

    def sweep(self) -> None:
        workers = pool() if self.device.type == "cuda" else None
        runner = sweep.Sweep(self.tables["sweep"], self.device, self.options.tiny, workers)
        try:
            for op in self.ops:
                numbers = [number for number, target in enumerate(TARGETS) if target.op == op]
                for number in numbers[:1] if self.options.tiny else numbers:
                    for line in runner.run(number, self.seconds("sweep") / len(numbers)):
                        self.notes.append(line)
                        say(line)
        finally:
            if runner.workers is not None:
                runner.workers.shutdown(wait=False, cancel_futures=True)

    def train(self) -> None:
        log = self.out / "train.log"
        launcher = str(Path(sys.executable).with_name("deepspeed"))
        command = [launcher, "train/pretrain.py", "--config", "sample-gpu", "--out", str(self.out / "train")]
        command.append(f"run.steps={self.options.steps}")
        missing = importlib.util.find_spec("deepspeed") is None or not Path(command[0]).exists()
        if missing or self.device.type != "cuda":
            reason = "not on a CPU" if self.device.type != "cuda" else "deepspeed is not installed"
            self.notes.append(f"train: left out, {reason}: {' '.join(command)}")
            log.write_text(self.notes[-1] + "\n")
            return
        with log.open("w") as file:
            try:
                limit = self.seconds("train")
                done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
                self.notes.append(f"train: exit status {done.returncode}")
            except subprocess.TimeoutExpired:
                self.notes.append(f"train: stopped after {limit:.0f} s")
        say("\n".join(log.read_text(errors="replace").splitlines()[-12:]))

    def finish(self) -> int:
        """Writes and prints the summary; 1 if a tensor failed."""
        checked, path = self.tables["correctness"].rows, self.out / "speed.csv"
        timed = store.read(path) if path.exists() else []
        facts = self.facts
        lines = [f"{facts['device']}, driver {facts['driver']}, torch {facts['torch']}, triton {facts['triton']}"]
        lines[0] += f", commit {facts['commit'][:12]}{' with changes' if facts['dirty'] is True else ''}"
        if self.device.type != "cuda":
            lines.append("on a CPU: the times below say nothing about the kernels")
        lines += [*summary.speed(timed), *summary.noise(timed), *self.notes, *summary.correctness(checked)]
        lines += [*(f"left out, no time: {what}" for what in self.left_out), *summary.targets(timed)]
        (self.out / "summary.txt").write_text("\n".join(lines) + "\n")
        wordy = set(summary.speed(timed)) - set(summary.speed(timed, short=True))
        say("\n" + "\n".join(line for line in lines if line not in wordy))
        return 1 if any(row["passed"] != "True" for row in checked) else 0


def _roof_line(roofs: Roofs) -> str:
    share = f"{roofs.copy / DATASHEET.copy:.0%} and {roofs.matmul / DATASHEET.matmul:.0%} of an H100's data sheet"
    rates = f"copy {roofs.copy / 1e12:.3f} TB/s, matmul {roofs.matmul / 1e12:.0f}, tf32 {roofs.tf32 / 1e12:.0f} TFLOP/s"
    return f"roofs: {rates} ({share})"


def say(text: str) -> None:
    print(text, flush=True)


def again(arguments: list[str], began: float, options: argparse.Namespace) -> None:
    """Goes on in a fresh process, whose device answers: with --resume, and the time that is left."""
    times = int(os.environ.get(TIMES, "0")) + 1
    if times > MOST_TIMES:
        raise SystemExit(f"bench.gpu: the device was lost {times} times")
    os.environ[TIMES] = str(times)
    rest = [argument for argument in arguments if argument != "--resume"]
    if options.only in ("correctness", "speed"):
        seconds = options.seconds or SECONDS[options.only]
        rest += ["--seconds", f"{max(1.0, seconds - (time.monotonic() - began)):.0f}"]
    os.execv(sys.executable, [sys.executable, "-m", "bench.gpu", *rest, "--resume"])


def parse(arguments: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--only", choices=STAGES, help="one stage; default: all")
    parser.add_argument("--op", nargs="+", choices=OPS, help="these operations; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"), help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes in float32")
    parser.add_argument("--seconds", type=float, help=f"a stage, of the sweep an operation; default: {SECONDS}")
    parser.add_argument("--commit", help="of this tree, where it is no clone and git cannot tell")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are in --out and add the others")
    parser.add_argument("--steps", type=int, default=60, help="of --only train")
    options = parser.parse_args(list(arguments))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "bench.gpu: no CUDA device here; --device cpu --tiny runs the same code on a CPU\n")
    return options


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options, began = parse(arguments), time.monotonic()
    if options.tiny:
        torch.set_num_threads(1)  # for such sizes a second thread only waits
    run = Run(options)
    try:
        for stage in STAGES if options.only is None else (options.only,):
            getattr(run, stage)()
    except DeviceLost as failure:
        say(f"the device no longer answers ({failure}): going on in a new process")
        again(arguments, began, options)
    return run.finish()


if __name__ == "__main__":
    raise SystemExit(main())
