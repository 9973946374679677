"""Pretrains VATT: ``deepspeed train/pretrain.py`` (or torchrun, or plain python for one process)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

import torch  # noqa: E402

from train.core.checkpoint import CheckpointError  # noqa: E402
from train.core.loop import NotFinite  # noqa: E402
from train.core.ranks import peer_lost, start_distributed, stop_distributed  # noqa: E402
from train.pretraining.build import Assembled, assemble, prepare  # noqa: E402
from train.pretraining.cli import Job, parse  # noqa: E402
from train.pretraining.finish import finish  # noqa: E402
from vatt.config import ConfigError  # noqa: E402
from vatt.data import ManifestError, TextError, TooManySkipped  # noqa: E402
from vatt.data.loader import NoUsableClip  # noqa: E402
from vatt.sample import SampleError  # noqa: E402
from vatt.sample.encode import EncoderError  # noqa: E402

# What a user can mend: told in one line that names the file and the field. Anything else is a fault of ours.
EXPECTED = (
    CheckpointError,
    ConfigError,
    EncoderError,
    ManifestError,
    NoUsableClip,
    NotFinite,
    SampleError,
    TextError,
    TooManySkipped,
)


def main(arguments: list[str]) -> int:
    """Runs the job of a command line; 0 when it ended as asked, 1 with a message when it could not."""
    job: Job | None = None
    began = time.monotonic()
    assembled: Assembled | None = None
    try:
        job = parse(arguments, on_gpu=torch.cuda.is_available())
        rank, ranks, device = start_distributed()
        prepared = prepare(job, rank, ranks, device)
        assembled = assemble(prepared, rank, ranks, device)
        complete = assembled.trainer.run()
        finish(assembled, complete, time.monotonic() - began)
        assembled.close()
        stop_distributed()
    except EXPECTED as error:
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
        if assembled is not None:
            assembled.trainer.loader.close()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the communication library may outlive the interpreter's own end and abort it (one run in eight with two
    # ranks). All files are closed and all workers ended by now, so nothing is lost by leaving at once.
    os._exit(code)
