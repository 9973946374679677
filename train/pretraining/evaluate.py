"""Evaluates the model of a run on its held-out clips, on one rank, from a plain copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from train.config.pretraining import PretrainConfig
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.evaluate import count_evenly, evenly, plain_copy, warn_skipped
from train.core.ranks import RankContext, wait_for_all
from train.core.run_folder import RunFolder
from vatt import signals
from vatt.data import Batch, Clip, Tokenizer, eval_batches
from vatt.data.skipped import Record
from vatt.evaluation.retrieval import (
    MEANINGFUL,
    EvaluationError,
    Table,
    embed,
    format_table,
    retrieval_table,
    shared_lines,
    write_results,
)
from vatt.models import VATT
from vatt.weights.tensors import Tensors


@dataclass
class RetrievalEvaluator:
    """Call it with the number of steps done, on all ranks."""

    config: PretrainConfig
    context: RankContext
    folder: RunFolder
    engine: Engine
    reporter: Reporter
    clips: list[Clip]
    tokenizer: Tokenizer
    oracle: dict[str, Any] | None = None

    @property
    def samples(self) -> int:
        """Windows that an evaluation reads."""
        if len(self.clips) < MEANINGFUL:
            return 0
        return count_evenly(len(self.clips), self.config.evaluation.max_clips) * self.config.evaluation.windows

    def __call__(self, step: int) -> Table | None:
        """Prints and records the table on rank 0. Nothing happens where too few clips are held out."""
        if len(self.clips) < MEANINGFUL:
            self.reporter.say(f"evaluation: left out, {len(self.clips)} clips held out, {MEANINGFUL} are needed")
            return None
        weights = self.engine.model_tensors("vatt.")
        table = None
        try:
            table = self._on_this_rank(step, weights) if self.context.first else None
        except signals.SignalInterrupt:  # a checkpoint is worth more
            self.reporter.say("evaluation: left out, as the run was told to end")
        weights.skip()  # all ranks take part in gathering what ZeRO has sharded
        wait_for_all()
        return table

    def _on_this_rank(self, step: int, weights: Tensors) -> Table | None:
        options, skipped = self.config.evaluation, list[Record]()
        model = plain_copy(self.engine, weights, lambda: VATT(self.config.model, self.config.engine.backend))

        def batches() -> Iterator[Batch]:
            for batch in eval_batches(
                evenly(self.clips, options.max_clips),
                self.tokenizer,
                self.config.model.input,
                self.config.data,
                batch_size=options.batch_size,
                windows=options.windows,
            ):
                skipped.extend(batch["skipped"])
                yield batch

        try:
            with signals.may_interrupt():  # the weights, which other ranks hand over, are there
                found = embed(model, batches(), self.engine.device)
                table = retrieval_table(found)
        except EvaluationError as error:  # the training goes on
            self.reporter.warn(f"evaluation: {error}")
            return None
        finally:
            warn_skipped(self.reporter, skipped)
        self.reporter.say(f"held-out clips after step {step} ({len(found.captions)} clips)")
        self.reporter.say("\n".join([format_table(table, self.oracle), *shared_lines(table)]))
        self.reporter.evaluation(step, {name: asdict(level) for name, level in table.items()})
        write_results(self.folder.retrieval, found, table, self.oracle)
        return table
