"""From a run that is built to its end: training, the exported model, the last evaluation, and what there is to know."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from train.core.loop import Trainer
from train.core.ranks import gather
from vatt import signals
from vatt.weights.tensors import Tensors


def train_to_end(
    trainer: Trainer, export: Callable[[Tensors], None], prefix: str, report: Callable[[], None] | None = None
) -> int:
    """Trains, and finishes a run that reached its last step; one that was stopped only says how to go on.

    Returns:
        The exit status, the same on all ranks: 0; of a run that a signal stopped, 128 and its number.

    Args:
        export: writes the model, given its weights in fp32; on rank 0.
        prefix: of the model's names in the module that is trained.
        report: writes and says what else there is; on rank 0.
    """
    try:
        complete = trainer.run()
        if complete:
            _finish(trainer, export, prefix, report)
        else:
            path = trainer.folder.path
            what = f"stopped after step {trainer.step}; go on" if trainer.step else "stopped; begin again"
            trainer.reporter.say(f"{what} with: --out {path} --resume")
        status = next((status for status in gather(signals.status()) if status), 0)
        trainer.close()
        return status
    finally:
        # The decoding processes end also when something was raised; DeepSpeed's part of ``close`` is left out then,
        # for other ranks may have gone.
        trainer.loader.close()
        trainer.reporter.close(failed=True)  # where it is not closed yet


def _finish(
    trainer: Trainer, export: Callable[[Tensors], None], prefix: str, report: Callable[[], None] | None
) -> None:
    folder, say, first = trainer.folder, trainer.reporter.say, trainer.context.first
    weights = trainer.engine.model_tensors(prefix)
    trainer.write([weights], lambda: export(weights))  # before the evaluation: nothing it meets can lose the model
    trainer.evaluate(trainer.step)
    if not first:
        return
    if trainer.skips.records:
        say(f"{trainer.skips.summary()}; all in {folder.skipped}")
    if trainer.counts["skipped_steps"]:
        say(f"{trainer.counts['skipped_steps']} steps were skipped: loss or gradient not finite")
    if bound := trainer.bound():
        say(bound)
    for line in trainer.advisor.summary():
        say(line)
    if report is not None:
        report()
    seconds = round(time.monotonic() - trainer.context.began)
    say(f"{folder.path}: done in {timedelta(seconds=seconds)}; model in {folder.model}")
