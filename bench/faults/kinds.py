"""The faults: how each is injected, what is promised of it, and how often.

A function injects one: it gets the `Harness`, a random generator of its own, and which time this is, and returns the
`Outcome`. It raises PromiseBroken where the promise is not kept, and NotInjected where this machine does not allow it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.faults.harness import (
    EVERY,
    NEAR,
    STEPS,
    Harness,
    Job,
    NotInjected,
    Outcome,
    PromiseBroken,
    checkpoints,
    children,
    free_port,
    read_losses,
)
from bench.faults.inject import at_file_operation, at_step, kill, kill_in_file, mount_memory, send
from vatt.results import git

Inject = Callable[[Harness, Random, int], Outcome]
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
LONG = ["--steps", "60"]  # of a run under a launcher, whose end takes a while to be noticed
# Adam would move a weight whose gradient is 0 by the sign of a rounding, and each rank has dropout of its own.
# Batch norm over few clips makes much of a rounding, which a lower rate keeps small.
ALIKE = ["--batch-size", "8", "optim.kind=sgd", "optim.lr=1e-4", "model.video.dropout_rate=0"]


@dataclass(frozen=True)
class Fault:
    """``times``: of the full form, None: once for each file operation of a run; ``quick``: of the short one. ``lose``:
    the most steps that may have to be done again. ``equal``: what is promised of losses and final weights."""

    name: str
    inject: Inject
    times: int | None
    quick: int = 0
    lose: int = EVERY
    equal: str = "bit-equal"
    kills: bool = False


def _random_moment(harness: Harness, random: Random, job: Job) -> None:
    """Waits for a share of the CPU time that the whole run takes, and a little more: there are waits, too."""
    share, rest = random.random() * harness.cpu, 0.1 * random.random() ** 2
    job.until(lambda: job.cpu >= share)
    time.sleep(rest)


def _until_step(job: Job, step: int) -> None:
    job.until(lambda: max(read_losses(job.out), default=0) >= step)


def kill_at_random(harness: Harness, random: Random, number: int) -> Outcome:
    job = harness.start(harness.new())
    _random_moment(harness, random, job)
    job.signal(signal.SIGKILL)
    job.wait()
    return harness.go_on(job.out)


def kill_at_operation(harness: Harness, random: Random, number: int) -> Outcome:
    """Each comes once; fewer times are spread over them, since 7919 is prime."""
    out, operation = harness.new(), number * 7919 % harness.operations + 1
    harness.start(out, before=lambda: at_file_operation(out, operation, kill)).wait()
    return harness.go_on(out)


def kill_within_file(harness: Harness, random: Random, number: int) -> Outcome:
    out, operation, size = harness.new(), random.randrange(1, harness.operations), random.randrange(1, 400_000)
    harness.start(out, before=lambda: at_file_operation(out, operation, partial(kill_in_file, size))).wait()
    return harness.go_on(out)


def kill_again_and_again(harness: Harness, random: Random, number: int) -> Outcome:
    """As a machine that is taken away: each start gets somewhat further."""
    out = harness.new()
    for _ in range(4):
        job, done = harness.start(out), max(read_losses(out), default=0)
        _until_step(job, done + random.randrange(1, 5))
        job.signal(signal.SIGKILL)
        job.wait()
        harness.check_orphans()
    return harness.go_on(out)


def kill_rank(harness: Harness, random: Random, number: int) -> Outcome:
    out = harness.new()
    operation = random.randrange(harness.operations) if number % 2 else -1
    job = harness.start(out, ranks=2, before=lambda: at_file_operation(out, operation, kill))
    if operation < 0:
        _random_moment(harness, random, job)
        job.signal(signal.SIGKILL, random.randrange(2))
    job.wait()
    return harness.go_on(out, ranks=2, of=harness.reference(ranks=2))


def kill_worker(harness: Harness, random: Random, number: int) -> Outcome:
    """The clip that it was reading, if any, is recorded and replaced; then the run is another one."""
    out = harness.new()
    job, moment = harness.start(out), random.random() * harness.cpu
    job.until(lambda: job.cpu >= moment and children(job.pids[0]))
    for pid in children(job.pids[0])[:1] if job.running else ():
        os.kill(pid, signal.SIGKILL)
    job.expect(0)
    harness.check_orphans()
    harness.check_left(out)
    lost = _skipped(out)
    for record in lost:
        if ".mov" not in str(record.get("file")) or not record.get("field"):
            raise PromiseBroken(f"skipped.jsonl does not name file and field: {record}")
    return Outcome(0) if lost else harness.go_on(out)


def _skipped(out: Path) -> list[dict[str, Any]]:
    path = out / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _launched(harness: Harness, step: int) -> Job:
    """By DeepSpeed, and brought to a step."""
    out, launcher = harness.new(), str(Path(sys.executable).with_name("deepspeed"))
    words = [launcher, "--num_gpus", "2", "--master_port", free_port(), "train/pretrain.py"]
    job = harness.execute(out, [sys.executable, *words, *harness.command(out, *LONG)])
    _until_step(job, step)
    return job


def kill_launcher(harness: Harness, random: Random, number: int) -> Outcome:
    """The command itself, or the process that it starts, without which the ranks have no parent: they end."""
    job = _launched(harness, random.randrange(2, 9))
    victims = [*job.pids, *children(job.pids[0])][: 1 + number % 2]
    os.kill(victims[-1], signal.SIGKILL)
    job.wait()
    harness.check_orphans()
    if len(victims) > 1 and max(read_losses(job.out)) == 60:
        raise PromiseBroken("the ranks went on without their launcher")
    return harness.go_on(job.out, *LONG, ranks=2, of=harness.reference(*LONG, ranks=2))


def stop_launcher(harness: Harness, random: Random, number: int) -> Outcome:
    job = _launched(harness, random.randrange(2, 9))
    job.signal([signal.SIGTERM, signal.SIGINT][number % 2])
    if job.wait() == [0]:
        raise PromiseBroken("a run that was stopped has exit status 0")
    return harness.go_on(job.out, *LONG, ranks=2, of=harness.reference(*LONG, ranks=2))


def stop(which: signal.Signals, harness: Harness, random: Random, number: int) -> Outcome:
    """In turns: in a step, at a file operation (start, save, evaluation, export, report), at any moment."""
    out, step, operation = harness.new(), random.randrange(1, STEPS + 1), random.randrange(harness.operations)
    act = partial(send, which)
    before = [lambda: at_step(step, act), lambda: at_file_operation(out, operation, act), None][number % 3]
    job = harness.start(out, before=before)
    if before is None:
        _random_moment(harness, random, job)
        job.signal(which)
    if job.wait() not in ([0], [SIGNALS[which]], [-which]) or "Traceback" in job.text:
        job.expect(SIGNALS[which])
    if job.wait() == [-which] and read_losses(out):  # before it was there to heed it
        raise PromiseBroken("ended at once, in training")
    if job.wait() == [0] and max(read_losses(out)) < STEPS:
        raise PromiseBroken("a run that was stopped has exit status 0")
    return harness.go_on(out)


def full_disk(harness: Harness, random: Random, number: int) -> Outcome:
    _need_mounts(harness)
    out = harness.new()
    out.mkdir()
    mount_memory(out, size := 4096 * random.choice([1, 5, random.randrange(10, 800)]))
    job = harness.start(out)
    if job.wait() != [0]:
        job.expect(1, "^error: .*(no space|disk)", str(out))
    if any("partly" in path.name for path in (out / "checkpoints").glob(".*")):
        raise PromiseBroken("a checkpoint that was not written to its end is left")
    mount_memory(out, size + (1 << 26), remount=True)
    return harness.go_on(out)


def tiny_shared_memory(harness: Harness, random: Random, number: int) -> Outcome:
    _need_mounts(harness)
    out = harness.new()
    mount_memory("/dev/shm", 4096 * [1, 20, 100][number % 3], remount=True)
    try:
        job, began = harness.start(out, "data.workers=2"), time.monotonic()
        if job.wait() != [0]:
            job.expect(1, "^error: .*(/dev/shm|shared memory)")
        if time.monotonic() - began > 120:
            raise PromiseBroken("told after two minutes only")
    finally:
        mount_memory("/dev/shm", 1 << 29, remount=True)
    return harness.go_on(out)


def _need_mounts(harness: Harness) -> None:
    if not harness.mounts:
        raise NotInjected("needs root: mounts of its own")


def vanished_data(harness: Harness, random: Random, number: int) -> Outcome:
    out, data = harness.new(), harness.data.parent
    away = data.with_name("away")
    job = harness.start(out, before=lambda: at_step(random.randrange(1, STEPS), lambda module: data.rename(away)))
    try:
        if job.wait() != [0]:
            job.expect(1, "^error: ", "clips/")
    finally:
        if away.exists():
            away.rename(data)
    return harness.go_on(out)


def _flip(path: Path, where: float, bits: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= bits
    path.write_bytes(content)


def _cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def _zeros(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(4096) + content[middle + 4096 :])


def _replaced(path: Path) -> None:
    path.unlink()
    path.mkdir()


MODEL, MOMENTS, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
# Of the newest checkpoint and the one before it.
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "weights cut": lambda new, old: _cut(new / MODEL, 0.6),
    "weights empty": lambda new, old: _cut(new / MODEL, 0),
    "weights missing": lambda new, old: (new / MODEL).unlink(),
    "a bit of the weights": lambda new, old: _flip(new / MODEL, 0.8),
    "a block of zeros in the weights": lambda new, old: _zeros(new / MODEL),
    "weights of an earlier step": lambda new, old: shutil.copy(old / MODEL, new / MODEL),
    "bytes behind the weights": lambda new, old: (new / MODEL).write_bytes((new / MODEL).read_bytes() + bytes(64)),
    "the header of the weights": lambda new, old: _flip(new / MODEL, 0.0005, 255),
    "moments cut": lambda new, old: _cut(new / MOMENTS, 0.99),
    "a bit of the moments": lambda new, old: _flip(new / MOMENTS, 0.5),
    "moments of an earlier step": lambda new, old: shutil.copy(old / MOMENTS, new / MOMENTS),
    "a folder in place of the moments": lambda new, old: _replaced(new / MOMENTS),
    "state empty": lambda new, old: _cut(new / STATE, 0),
    "a bit of the state": lambda new, old: _flip(new / STATE, 0.3),
    "state of an earlier step": lambda new, old: shutil.copy(old / STATE, new / STATE),
    "state another JSON": lambda new, old: (new / STATE).write_text("[1, 2]"),
    "state without its middle": lambda new, old: (new / STATE).write_bytes((new / STATE).read_bytes()[:9] + b"}"),
}


def damaged(harness: Harness, random: Random, number: int) -> Outcome:
    name = list(DAMAGES)[number % len(DAMAGES)]
    out = harness.new()
    shutil.copytree(harness.cut_at(STEPS), out)
    old, new = checkpoints(out)[-2:]
    DAMAGES[name](new, old)
    outcome = harness.go_on(out)
    if new.name not in harness.text:
        raise PromiseBroken(f"{name}: nobody tells that {new.name} is damaged")
    return outcome


def elsewhere(harness: Harness, random: Random, number: int) -> Outcome:
    """Goes on with another number of ranks, or another ZeRO stage."""
    ways = [(1, "0", 2, "0"), (2, "0", 1, "0"), (1, "0", 1, "1"), (1, "3", 1, "0"), (1, "2", 2, "3"), (2, "1", 2, "2")]
    ranks, zero, then, other = ways[number % len(ways)]
    out = harness.new()
    harness.start(out, *ALIKE, "--zero", zero, ranks=ranks, before=lambda: at_step(STEPS - 3, kill)).wait()
    return harness.go_on(out, *ALIKE, "--zero", other, ranks=then, of=harness.reference(*ALIKE), near=NEAR)


def other_workers(harness: Harness, random: Random, number: int) -> Outcome:
    out = harness.new()
    harness.start(out, before=lambda: at_step(random.randrange(2, STEPS), kill)).wait()
    return harness.go_on(out, f"data.workers={[0, 3][number % 2]}")


def two_jobs(harness: Harness, random: Random, number: int) -> Outcome:
    """The second one comes while the first one trains, or at the same moment."""
    out = harness.new()
    first = harness.start(out)
    if number % 2 == 0:
        first.until(lambda: read_losses(out))
    second = harness.start(out)
    codes = sorted([*first.wait(), *second.wait()])
    if codes != [0, 1]:
        raise PromiseBroken(f"exit statuses {codes}: {second.text.splitlines()[-1:]}")
    winner, loser = sorted((first, second), key=lambda job: job.wait())
    loser.expect(1, "^error: ", str(winner.pids[0]))
    return harness.go_on(out)


def nan_weights(harness: Harness, random: Random, number: int) -> Outcome:
    out, step, share = harness.new(), random.randrange(1, STEPS + 1), random.random()

    def spoil(module: Any) -> None:
        weights = list(module.parameters())
        weights[int(share * len(weights))].data.view(-1)[-1] = float("nan")

    job = harness.start(out, before=lambda: at_step(step, spoil))
    job.expect(1, "^error: .*finite")
    for path in out.rglob("*.safetensors"):
        if not all(np.isfinite(tensor).all() for tensor in load_file(path).values()):
            raise PromiseBroken(f"{path.relative_to(out)} is not finite")
    if (out / "model").exists():
        raise PromiseBroken("a model was exported")
    return harness.go_on(out)


def nan_sound(harness: Harness, random: Random, number: int) -> Outcome:
    spoilt = random.randrange(12)
    out, data = harness.new(), harness.clips(f"nan-{number}", spoilt)
    job = harness.start(out, data=data)
    job.expect(0)
    found = _skipped(out)
    if {(Path(record["file"]).name, record["field"]) for record in found} != {(f"{spoilt}.mov", "audio")}:
        raise PromiseBroken(f"skipped.jsonl does not name the clip: {found[:2]}")
    if any(not np.isfinite(values).all() for values in read_losses(out).values()):
        raise PromiseBroken("a loss is not finite")
    return Outcome(0)


def wrong_rate(harness: Harness, random: Random, number: int) -> Outcome:
    out, value = harness.new(), ["nan", "inf", "-inf", "NaN", "1e400"][number % 5]
    harness.start(out, f"optim.{['lr', 'final_lr'][number // 5 % 2]}={value}").expect(1, "^error: .*lr")
    if out.exists():
        raise PromiseBroken("a folder was made")
    return Outcome(0)


def earlier_commit(harness: Harness, random: Random, number: int) -> Outcome:
    """Begun by the code of another commit, and stopped there."""
    tree, out = harness.folder / "earlier", harness.new()
    if git("worktree", "add", "--detach", "--force", str(tree), harness.base) is None:
        raise NotInjected(f"no commit {harness.base} in this clone")
    try:
        words = [word for word in harness.command(out) if word not in ("--resume", "auto")]
        job = harness.execute(out, [sys.executable, "train/pretrain.py", *words], tree)
        _until_step(job, 5)
        job.signal(signal.SIGTERM)
        job.wait()
        return harness.go_on(out, near=NEAR)
    finally:
        git("worktree", "remove", "--force", str(tree))


FAULTS = (
    Fault("kill -9 of the job, at any moment", kill_at_random, 60, 1, kills=True),
    Fault("kill -9 of the job, at each file operation", kill_at_operation, None, 1, kills=True),
    Fault("kill -9 of the job, while a file is written", kill_within_file, 12, kills=True),
    Fault("kill -9 of each start, five starts", kill_again_and_again, 4, kills=True),
    Fault("kill -9 of one of two ranks", kill_rank, 12, kills=True),
    Fault("kill -9 of a reading process", kill_worker, 12, lose=0, kills=True),
    Fault("kill -9 of the launcher", kill_launcher, 4, kills=True),
    Fault("SIGTERM or SIGINT to the launcher", stop_launcher, 4, lose=0),
    *(
        Fault(f"{which.name} in each phase", partial(stop, which), 15, int(which == signal.SIGTERM), 0)
        for which in SIGNALS
    ),
    Fault("a full disk", full_disk, 12),
    Fault("/dev/shm too small", tiny_shared_memory, 3, lose=0),
    Fault("the data folder vanishes", vanished_data, 4),
    Fault("the newest checkpoint damaged", damaged, len(DAMAGES), 1, 2 * EVERY),
    Fault("another number of ranks, ZeRO stage", elsewhere, 6, equal="within 1e-3"),
    Fault("another number of reading processes", other_workers, 4),
    Fault("two jobs in one folder", two_jobs, 6, 1, 0),
    Fault("NaN in the weights", nan_weights, 10, 0, 2 * EVERY),
    Fault("NaN in a sound", nan_sound, 3, 0, 0, "-"),
    Fault("NaN or infinity as learning rate", wrong_rate, 10, 1, 0, "-"),
    Fault("begun by an earlier commit", earlier_commit, 1, 0, 0, "within 1e-3"),
)
