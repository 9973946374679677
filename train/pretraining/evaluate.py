"""Evaluates the model of a run on its held-out clips, on one rank, from a plain copy of the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from train.config.pretraining import PretrainConfig
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.ranks import wait_for_all
from train.core.run_folder import RunFolder
from train.finetuning.evaluate import evenly
from vatt.data import Clip, Tokenizer, eval_batches
from vatt.evaluation.retrieval import EvaluationError, Table, embed, format_table, retrieval_table, write_results
from vatt.models import VATT

_MEANINGFUL = 10  # held-out clips below which recall at 5 and 10 says nothing


@dataclass
class Evaluator:
    """Call it with the number of steps done, on all ranks."""

    config: PretrainConfig
    folder: RunFolder
    engine: Engine
    reporter: Reporter
    rank: int
    clips: list[Clip]
    tokenizer: Tokenizer
    oracle: dict[str, Any] | None = None

    def __call__(self, step: int) -> Table | None:
        """Prints and records the table on rank 0. Nothing happens where too few clips are held out."""
        if len(self.clips) < _MEANINGFUL:
            self.reporter.say(f"evaluation: left out, {len(self.clips)} clips held out, {_MEANINGFUL} are needed")
            return None
        state = self.engine.model_state()  # all ranks take part in gathering what ZeRO has shared out
        table = self._on_this_rank(step, state) if self.rank == 0 else None
        wait_for_all()
        return table

    def _on_this_rank(self, step: int, state: dict[str, torch.Tensor]) -> Table | None:
        device, dtype = self.engine.device, self.engine.dtype
        with torch.random.fork_rng(devices=[]):  # or an evaluation would change the run's own draws
            model = VATT(self.config.model, self.config.engine.kernels)
        model.load_state_dict({name.removeprefix("vatt."): value for name, value in state.items()})
        model.to(device, dtype)
        options = self.config.evaluation
        skipped: list[dict[str, Any]] = []

        def batches() -> Any:
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
            found = embed(model, batches(), device)
            table = retrieval_table(found)
        except EvaluationError as error:  # the training goes on
            self.reporter.warn(f"evaluation: {error}")
            return None
        finally:
            for record in skipped:
                self.reporter.warn(f"evaluation: {record['file']}: {record['field']}: {record['reason']}")
        self.reporter.say(f"held-out clips after step {step} ({len(found.captions)} clips)")
        self.reporter.say(format_table(table, self.oracle))
        self.reporter.evaluation(step, {name: asdict(level) for name, level in table.items()})
        write_results(self.folder.retrieval, found, table, self.oracle)
        return table
