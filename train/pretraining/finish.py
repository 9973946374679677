"""The end of a run: last evaluation, exported model, plots, report, and what there is to know in a few lines."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

from safetensors.torch import save_file

from train.core.ranks import wait_for_all
from train.pretraining.build import Assembled
from train.report.page import write_report
from train.report.plots import write_plots
from train.report.records import read_metrics
from vatt.config import to_dict
from vatt.data.tokenizer import FILE as TOKENIZER


def finish(run: Assembled, complete: bool, seconds: float) -> None:
    """Evaluates and reports a complete run; a run that was stopped only says how to go on. All ranks must call."""
    trainer, folder, reporter = run.trainer, run.prepared.folder, run.prepared.reporter
    if not complete:
        reporter.say(f"stopped after step {trainer.step}; go on with: --out {folder.path} --resume")
        wait_for_all()
        return
    run.evaluator(trainer.step)
    _export(run)
    if run.rank == 0:
        if trainer.skips.records:
            reporter.say(f"{trainer.skips.summary()}; all in {folder.skipped}")
        if trainer.counts["skipped_steps"]:
            reporter.say(f"{trainer.counts['skipped_steps']} steps were skipped: loss or gradient not finite")
        write_plots(folder, read_metrics(folder.metrics))
        reporter.say(f"report: {write_report(folder.path)}")
        reporter.say(f"{folder.path}: done in {timedelta(seconds=round(seconds))}; model in {folder.model}")
    wait_for_all()


def _export(run: Assembled) -> None:
    """The weights alone, with what is needed to use them: model.safetensors, config.json, tokenizer.json."""
    state = run.trainer.engine.model_state()
    if run.rank != 0:
        return
    folder = run.prepared.folder
    folder.model.mkdir(exist_ok=True)
    weights = {name.removeprefix("vatt."): value for name, value in state.items()}
    save_file(weights, folder.model / "model.safetensors")
    (folder.model / "config.json").write_text(json.dumps(to_dict(run.prepared.config.model), indent=1))
    shutil.copy(folder.path / TOKENIZER, folder.model / TOKENIZER)
