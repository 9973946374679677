"""Fine-tunes a pretrained backbone: ``deepspeed train/finetune.py`` (or torchrun, or plain python for one process)."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

from train.core.ranks import peer_lost, start_distributed, stop_distributed, wait_for_all  # noqa: E402
from train.finetuning.build import FinetuneRun, assemble  # noqa: E402
from train.finetuning.cli import FinetuneJob, parse  # noqa: E402
from train.pretrain import EXPECTED  # noqa: E402
from vatt.data import LabelError  # noqa: E402
from vatt.evaluation.classification import ScoreError  # noqa: E402
from vatt.weights.folder import PretrainedError, save_pretrained  # noqa: E402


def main(arguments: list[str]) -> int:
    """Runs the job of a command line; 0 when it ended as asked, 1 with a message when it could not."""
    job: FinetuneJob | None = None
    began = time.monotonic()
    run: FinetuneRun | None = None
    try:
        job = parse(arguments)
        run = assemble(job, *start_distributed())
        complete = run.trainer.run()
        finish(run, complete, time.monotonic() - began)
        run.close()
        stop_distributed()
    except (*EXPECTED, LabelError, PretrainedError, ScoreError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        where = error.filename or (job and job.out) or "the folder of the run"
        print(f"error: {where}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    except RuntimeError as error:
        if not peer_lost(error):
            raise
        print("error: another rank has ended, for a reason of its own", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    finally:
        if run is not None:
            run.trainer.loader.close()
    return 0


def finish(run: FinetuneRun, complete: bool, seconds: float) -> None:
    """Evaluates and exports a complete run; a run that was stopped only says how to go on. All ranks must call."""
    trainer, folder, say = run.trainer, run.folder, run.reporter.say
    if not complete:
        say(f"stopped after step {trainer.step}; go on with: --out {folder.path} --resume")
        wait_for_all()
        return
    state = trainer.engine.model_state()
    if run.rank == 0:  # first, so that nothing that the evaluation meets can lose the model
        save_pretrained(run.model, folder.model, {name.removeprefix("model."): value for name, value in state.items()})
    run.evaluator(trainer.step)
    if run.rank == 0:
        if trainer.skips.records:
            say(f"{trainer.skips.summary()}; all in {folder.skipped}")
        if trainer.counts["skipped_steps"]:
            say(f"{trainer.counts['skipped_steps']} steps were skipped: loss or gradient not finite")
        say(f"{folder.path}: done in {timedelta(seconds=round(seconds))}; model in {folder.model}")
    wait_for_all()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as train/pretrain.py: threads of the communication library may abort the interpreter's own end
