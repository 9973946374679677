"""Evaluates the classifier of a run on its held-out clips; all ranks share the work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from train.config.finetuning import FinetuneConfig
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.ranks import gather
from train.core.run_folder import RunFolder
from vatt.data import Classes, Clip, Views
from vatt.evaluation.classification import ScoreError, Scores, Table, classification_table, score_clips
from vatt.models import build_classifier


@dataclass
class ClassifierEvaluator:
    """Call it with the number of steps done, on all ranks."""

    config: FinetuneConfig
    folder: RunFolder
    engine: Engine
    reporter: Reporter
    rank: int
    ranks: int
    clips: list[Clip]
    classes: Classes

    def __call__(self, step: int) -> Table | None:
        """Prints and records the table on rank 0. None where no clip is held out, or what is defines no figure."""
        if not self.clips:
            self.reporter.say("evaluation: left out, no clip is held out (column split: val or test)")
            return None
        options, state = self.config.evaluation, self.engine.model_state()  # all ranks take part in gathering
        with torch.random.fork_rng(devices=[]):  # or an evaluation would change the run's own draws
            model = build_classifier(self.config.model, self.config.engine.kernels)
        model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
        model.to(self.engine.device, self.engine.dtype)
        clips = evenly(self.clips, options.max_clips)
        views = Views(options.clips, options.crops)
        own = score_clips(
            model,
            clips,
            views,
            self.config.data,
            device=self.engine.device,
            batch_size=options.batch_size,
            numbers=range(self.rank, len(clips), self.ranks),
        )
        scores = Scores.join(gather(own))
        try:
            table = classification_table(scores, clips, self.classes)
        except ScoreError as error:  # of the held-out clips, and alike on all ranks; the training goes on
            self.reporter.warn(f"evaluation: {error}")
            return None
        if self.rank == 0:
            self._report(step, table, scores)
        return table

    def _report(self, step: int, table: Table, scores: Scores) -> None:
        for record in scores.skipped:
            self.reporter.warn(f"evaluation: {record['file']}: {record['field']}: {record['reason']}")
        self.reporter.say(f"held-out clips after step {step}: {in_words(table)}")
        self.reporter.evaluation(step, {"classification": table})
        views = f"{self.config.evaluation.clips} x {self.config.evaluation.crops}"
        content: dict[str, Any] = {"step": step, "task": self.config.task, "label": self.config.label, "views": views}
        content |= {"init": self.config.init, "table": table}
        self.folder.evaluation.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def evenly(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most ``most`` of the clips (0: all), evenly spread: a manifest is often sorted by class."""
    return list(clips[:: -(-len(clips) // most)]) if most and clips else list(clips)


def in_words(table: Table) -> str:
    """The figures of a table in one line."""
    skipped = f", {table['skipped']} could not be read" if table["skipped"] else ""
    clips = f"{table['n']} clips{skipped}"
    if "top1" in table:
        figures = f"top-1 {100 * table['top1']:.1f}%, top-5 {100 * table['top5']:.1f}%"
        return f"{figures} (largest class {100 * table['chance']:.1f}%), {table['classes']} classes, {clips}"
    left = f", {len(table['left_out'])} left out" if table["left_out"] else ""
    d_prime = "n/a" if table["d-prime"] is None else f"{table['d-prime']:.3f}"
    if table["infinite"]:
        d_prime += f" without {len(table['infinite'])} classes of AUC 0 or 1"
    figures = f"mAP {100 * table['mAP']:.1f}%, AUC {table['AUC']:.3f}, d-prime {d_prime}"
    return f"{figures}, {table['classes']} classes{left}, {clips}"
