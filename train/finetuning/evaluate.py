"""Evaluates the classifier of a run on its held-out clips; all ranks share the work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from train.config.finetuning import FinetuneConfig
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.evaluate import count_evenly, evenly, plain_copy, warn_skipped
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from train.evaluation.classification import describe_table, score_on_all_ranks
from vatt import signals
from vatt.data import Classes, Clip, Views
from vatt.evaluation.classification import ScoreError, Scores, Table, classification_table
from vatt.files import write_text
from vatt.models import Classifier


@dataclass
class ClassifierEvaluator:
    """Call it with the number of steps done, on all ranks."""

    config: FinetuneConfig
    context: RankContext
    folder: RunFolder
    engine: Engine
    reporter: Reporter
    clips: list[Clip]
    classes: Classes

    @property
    def samples(self) -> int:
        """Views that an evaluation reads, on the rank that has most."""
        options = self.config.evaluation
        clips = -(-count_evenly(len(self.clips), options.max_clips) // self.context.ranks)
        return clips * options.clips * options.crops

    def __call__(self, step: int) -> Table | None:
        """Prints and records the table on rank 0. None where no clip is held out, or what is defines no figure."""
        if not self.clips:
            self.reporter.say("evaluation: left out, no clip is held out (column split; data.eval_split)")
            return None
        options, config = self.config.evaluation, self.config
        weights = self.engine.model_tensors("model.")  # all ranks take part in gathering what ZeRO has sharded
        model = plain_copy(self.engine, weights, lambda: Classifier.from_config(config.model, config.engine.backend))
        clips = evenly(self.clips, options.max_clips)
        views = Views(options.clips, options.crops)
        try:
            scores = score_on_all_ranks(model, clips, views, config.data, self.context, options.batch_size)
        except signals.SignalInterrupt:  # on all ranks; a checkpoint is worth more
            self.reporter.say("evaluation: left out, as the run was told to end")
            return None
        try:
            table = classification_table(scores, clips, self.classes)
        except ScoreError as error:  # of the held-out clips, and alike on all ranks; the training goes on
            self.reporter.warn(f"evaluation: {error}")
            return None
        if self.context.first:
            self._report(step, table, scores)
        return table

    def _report(self, step: int, table: Table, scores: Scores) -> None:
        warn_skipped(self.reporter, scores.skipped)
        self.reporter.say(f"held-out clips after step {step}: {describe_table(table)}")
        self.reporter.evaluation(step, {"classification": table})
        views = f"{self.config.evaluation.clips} x {self.config.evaluation.crops}"
        content: dict[str, Any] = {"step": step, "task": self.config.task, "label": self.config.label, "views": views}
        content |= {"init": self.config.init, "table": table}
        write_text(self.folder.evaluation, json.dumps(content, indent=1, ensure_ascii=False))
