"""The training loop, in the order in which a step happens; and a clean stop at any step, with a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from train.config.sections import JobConfig, OptimConfig
from train.core.advice import Advisor, warmup_of
from train.core.bound import SHARES, in_words, shares_of, what_helps
from train.core.checkpoint import Checkpoint, random_state, save, steps
from train.core.console import Reporter, memory_gb
from train.core.engine import Engine, StepResult
from train.core.pace import Eta, Pace, Waits
from train.core.ranks import RankContext, agree, gather
from train.core.run_folder import RunFolder
from vatt import signals
from vatt.config import to_dict
from vatt.data import Batch, ClipLoader, SkipLog
from vatt.data.batches import Interrupted
from vatt.data.skipped import Record
from vatt.errors import UserError
from vatt.optim import cosine, quarter_cosine, step_cosine
from vatt.weights.tensors import NotFiniteTensor, Tensors

_ENOUGH = 1000  # clips without a pair to compare: there are few of them, if there are any


class _StopRequested(Exception):
    """The run ends before a step."""


class NotFinite(UserError, RuntimeError):
    """Too many steps in a row gave a loss or gradient that is not finite, or the weights are not."""


class NothingToLearn(UserError, RuntimeError):
    """No clip so far had what the loss compares: neither sound nor a caption."""


@dataclass
class Trainer:
    """One run between its first or resumed step and its end.

    Attributes:
        step: steps of training done, those that were skipped included.
        saved: the step of the newest checkpoint that this run wrote or began with.
        counts: what a checkpoint remembers: steps that were skipped.
        pending: losses of the steps since the last record, by name, and what the module returns beside them.
        evaluation_samples: of an evaluation, on the rank that has most.
    """

    config: JobConfig
    context: RankContext
    folder: RunFolder
    engine: Engine
    loader: ClipLoader
    skips: SkipLog
    reporter: Reporter
    evaluate: Callable[[int], object]
    flops_per_sample: float
    peak_flops: float | None  # of all ranks together
    step: int = 0
    saved: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"skipped_steps": 0})
    pending: dict[str, list[float]] = field(default_factory=dict)
    evaluation_samples: int = 0
    _begun: bool = False  # a step of this process
    _skipped_in_a_row: int = 0
    _unread: tuple[int, StepResult] | None = None  # the newest step, and what came of it
    _waited_device: float = 0.0
    _waited_ranks: float = 0.0
    _records: list[dict[str, Any]] = field(default_factory=list)
    _unpaired: int | None = 0  # clips without anything to compare; None as soon as one had it

    def __post_init__(self) -> None:
        self.advisor = Advisor(to_dict(self.config))

    def run(self) -> bool:
        """Trains to the last step. False if a signal stopped it before; a checkpoint is there in either case.

        An interrupt, a termination or a hang-up ends the run after its step; a second Ctrl-C ends it at once.

        Raises:
            NotFinite, NothingToLearn, TooManySkipped, CheckpointError, UnequalRanks: on all ranks; the message says
                what happened.
        """
        run = self.config.run
        began, pace = self.step, Pace(run, self.step, run.batch_size // self.context.ranks, self.evaluation_samples)
        with signals.put_off(), self._answered(), self.reporter.progress(self.step):
            self.loader.interrupted = lambda: signals.received() is not None
            batches = iter(self.loader)
            for note in (*self.loader.notes, *self.advisor.at_start()):
                self.reporter.warn(note)
            if self.step < run.steps:
                self.reporter.say(f"training from step {self.step + 1} on; the first step takes longest")
            else:
                self.reporter.say(f"all {run.steps} steps are done; run.steps=N goes on to more")
            while self.step < run.steps:
                rate = learning_rate(self.config.optim, run.steps, self.step)
                try:
                    result = self.engine.train_step(self._parts(batches), rate, run.seed * 1_000_003 + self.step)
                except _StopRequested:
                    break
                self.step += 1
                self._read()  # of the step before: the device is still at work on this one
                self._unread = (self.step, result)
                if self.step % run.log_every == 0 or self.step == run.steps:
                    self._record(pace, rate)
                elif self.step == began + 1:  # a resumed run shows them alone: its records are those of a whole run
                    self._record(pace, rate, keep=began == 0)
                self._tell_time(pace.eta(self.step))
                if self._due(run.save_every):
                    self._aside("saving", self.save, pace)
                if self._due(run.eval_every) and self.step < run.steps:
                    self._read()
                    self._aside("evaluation", lambda: self.evaluate(self.step), pace)
            if self.step:  # what was stopped before its first step begins again
                self.save()
        return self.step >= run.steps

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """A signal is answered at once, in a thread of its own, as the step that is finished first may take long."""

        def answer() -> None:
            with suppress(OSError):  # the terminal may be gone
                what = (
                    "this step is finished first; a second Ctrl-C ends at once" if self._begun else "no step has begun"
                )
                self.reporter.say(f"told to stop: {what}")

        signals.on_signal(answer)
        try:
            yield
        finally:
            signals.on_signal(answer, forget=True)

    def _parts(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The parts of the batch of the next step. Once all are there, the ranks agree on what comes.

        Raises:
            _StopRequested: on all ranks, any of them was told to stop. TooManySkipped, UnequalRanks.
        """
        records: list[Record] = []
        clips = 0
        try:
            for _ in range(self.engine.parts):
                part = next(batches)
                records += part["skipped"]
                clips += len(part["index"])
                yield part
                del part  # or its memory could not be filled again while the loader is asked for the next one
        except Interrupted:  # told to stop while waiting: the others, who may have theirs, expect as many clips
            clips = self.config.run.batch_size // self.context.ranks
        if self._must_stop(clips, records):
            raise _StopRequested

    def _must_stop(self, clips: int, unread: list[Record]) -> bool:
        """Whether any rank was told to stop. Clips that any rank could not read are counted on all, so that all give up
        together when there are too many."""
        before = time.monotonic()
        stop, skipped = agree([signals.received() is not None, bool(unread)], clips)
        self._waited_ranks += time.monotonic() - before
        records = [record for part in gather(unread) for record in part] if skipped else []
        self.skips.add(self.config.run.batch_size // self.config.data.windows_per_open, records)
        self._begun |= not stop
        if stop:
            self.reporter.say("stopping; a checkpoint is written" if self.step else "stopping before the first step")
        return stop

    def _read(self) -> None:
        """Reads the result of the newest step that was not read, and waits for it. Remembers its losses, or that it was
        skipped: the weights are as they were before it.

        The loop reads one step late, so that the device always has work; where something is recorded, saved or
        evaluated, it reads the newest.
        """
        if self._unread is None:
            return
        (step, result), self._unread = self._unread, None
        before = time.monotonic()
        applied, losses = result.applied, result.losses
        self._waited_device += time.monotonic() - before
        if applied:
            self._skipped_in_a_row = 0
            for name, value in losses.items():
                self.pending.setdefault(name, []).append(value)
            self._look_for_pairs(step, losses)
            return
        self._skipped_in_a_row, limit = self._skipped_in_a_row + 1, self.config.run.max_skipped_steps
        self.counts["skipped_steps"] += 1
        self.reporter.warn(f"step {step}: the loss or a gradient is not finite; the weights were left as they are")
        if self._skipped_in_a_row >= limit:
            raise NotFinite(
                f"{self._skipped_in_a_row} steps in a row gave a loss or gradient that is not finite, the last one "
                f"step {step} (run.max_skipped_steps = {limit}). Try a lower optim.lr, a longer "
                f"optim.warmup_steps or optim.clip_norm=1; {self.folder.checkpoints} holds older weights."
            )

    def _look_for_pairs(self, step: int, losses: dict[str, float]) -> None:
        """Ends a run whose clips, a thousand or each of them once, gave the loss nothing to compare: its weights would
        stay as they are. Where there was any, the run goes on."""
        if self._unpaired is None:
            return
        chances = [value for name, value in losses.items() if name.endswith("_chance")]
        if not chances or any(chances):
            self._unpaired = None
            return
        self._unpaired += self.config.run.batch_size
        if self._unpaired >= min(_ENOUGH, self.loader.clips) or step == self.config.run.steps:
            raise NothingToLearn(self.advisor.nothing_to_learn(self._unpaired))

    def _record(self, pace: Pace, rate: float, keep: bool = True) -> None:
        """Reports the mean losses and the speed since the last record. Without ``keep``, the losses of the newest step
        are shown, and count again in the next record."""
        self._read()
        figures = pace.measure(self.step, self._waits())
        figures |= self._of_the_slowest(figures)
        flops = figures["samples_per_s"] * self.flops_per_sample
        found = self.pending if keep else {name: values[-1:] for name, values in self.pending.items()}
        self.pending = {} if keep else self.pending
        known = {name: [value for value in values if math.isfinite(value)] for name, values in found.items()}
        means = {"loss": math.nan} | {name: sum(x) / len(x) for name, x in known.items() if x}
        record = {
            "step": self.step,
            **means,
            "lr": rate,
            **figures,
            "tflops": flops / 1e12,
            "mfu": None if self.peak_flops is None else flops / self.peak_flops,
            "memory_gb": memory_gb(),
            "skipped_steps": self.counts["skipped_steps"],
            "time": time.time(),
        }
        self._records.append(record)
        self.reporter.train(record, keep)
        for line in self.advisor.watch(record):
            self.reporter.warn(line)

    def _tell_time(self, eta: Eta | None) -> None:
        self.reporter.advance(self.step, eta)
        if eta and (line := self.advisor.length(eta)):
            self.reporter.warn(line)

    def _aside(self, what: str, do: Callable[[], object], pace: Pace) -> None:
        """Does ``what`` between two steps, and takes its time."""
        before = time.monotonic()
        do()
        pace.took(what, time.monotonic() - before, self.step, self._waits())

    def _waits(self) -> Waits:
        return Waits(self.loader.waited, self._waited_device, self._waited_ranks)

    def _of_the_slowest(self, figures: dict[str, float]) -> dict[str, float]:
        """The shares of waiting of the rank for which the others waited: it bounds the job."""
        if self.context.ranks == 1:
            return {}
        own = {name: figures[name] for name in SHARES}
        return min(gather(own), key=lambda shares: shares["ranks_wait"])

    def bound(self) -> str:
        """What bound the run, in a line; empty where nothing was recorded."""
        shares = shares_of(self._records)
        if not shares:
            return ""
        data, on_gpu = self.config.data, self.context.device.type == "cuda"
        room = self.context.cores
        help = what_helps(shares, on_gpu, data.workers, room, data.augment_on)
        return f"bound by {in_words(shares, on_gpu)}{'; ' if help else ''}{help}"

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def save(self) -> None:
        """Writes a checkpoint of the steps done so far, unless there is one. All ranks must call.

        Raises:
            NotFinite: there is NaN or infinity in the model or its optimizer. CheckpointError.
        """
        self._read()
        if self.saved == self.step:
            return
        model, optimizer = self.engine.model_tensors(), self.engine.optimizer_tensors()
        checkpoint = Checkpoint(self.step, model, optimizer, gather(random_state()), self.counts, self.pending)
        try:
            self.write([model, optimizer], lambda: save(self.folder.checkpoints, checkpoint, self.config.run.keep))
        except NotFiniteTensor as error:
            before = [path.name for path in steps(self.folder.checkpoints)[-1:]]
            way_out = f"{before[0]} is finite: go on from it with --resume and" if before else "try"
            raise NotFinite(
                f"step {self.step}: {error}; no checkpoint of it was written; {way_out} a lower optim.lr, a longer "
                "optim.warmup_steps or optim.clip_norm=1"
            ) from error
        self.saved = self.step

    def write(self, tensors: Sequence[Tensors], do: Callable[[], object]) -> None:
        """Does on rank 0 what goes through these tensors, in this order. All ranks must call, as making them takes all;
        what went wrong on rank 0 is raised on all."""
        failure: Exception | None = None
        if self.context.first:
            try:
                do()
            except (UserError, OSError) as error:
                failure = error
        for stream in tensors:
            stream.skip()
        (failure, *_) = gather(failure)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Ends the workers of the loader, and frees the engine."""
        self.loader.close()
        self.engine.close()
        self.reporter.close()


def learning_rate(optim: OptimConfig, steps: int, step: int) -> float:
    """The rate of the update that comes after ``step`` updates."""
    warmup = warmup_of(optim.warmup_steps, steps)
    if optim.schedule == "quarter_cosine":
        return quarter_cosine(step, base=optim.lr, final=optim.final_lr, total_steps=steps, warmup_steps=warmup)
    if optim.schedule == "cosine":
        return cosine(step, base=optim.lr, total_steps=steps, warmup_steps=warmup)
    levels = (optim.lr, optim.final_lr)
    return step_cosine(step, levels=levels, steps=(warmup, steps), total_steps=steps, warmup_steps=warmup)
