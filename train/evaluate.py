"""Evaluates a model: ``python train/evaluate.py --task {video,audio,image,retrieval,probe}``; also under ``deepspeed``.

Several ranks share the clips out, each clip to one of them, and give the figures of one rank.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout itself, in place of this folder

from train.core.ranks import peer_lost, start_distributed, stop_distributed  # noqa: E402
from train.evaluation.context import Place, prepare_out, use_sample  # noqa: E402
from train.pretraining.cli import Parser  # noqa: E402
from vatt.config import ConfigError  # noqa: E402
from vatt.data import LabelError, ManifestError, TextError, TooManySkipped  # noqa: E402
from vatt.evaluation.classification import ScoreError  # noqa: E402
from vatt.evaluation.probe import ProbeError  # noqa: E402
from vatt.evaluation.retrieval import EvaluationError  # noqa: E402
from vatt.precision import PRECISIONS  # noqa: E402
from vatt.sample import SampleError  # noqa: E402
from vatt.weights.folder import PretrainedError  # noqa: E402

# What a user can mend: told in one line that names the file and the field. Anything else is a fault of ours.
EXPECTED = (
    ConfigError,
    EvaluationError,
    LabelError,
    ManifestError,
    PretrainedError,
    ProbeError,
    SampleError,
    ScoreError,
    TextError,
    TooManySkipped,
)
TASKS = {
    "video": "classification",
    "audio": "classification",
    "image": "classification",
    "retrieval": "retrieval",
    "probe": "probe",
}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, ModuleType]:
    """The options, and the module of the task."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", choices=tuple(TASKS))
    task = first.parse_known_args(arguments)[0].task
    parser = Parser(prog="train/evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", choices=tuple(TASKS), required=True, help="what is evaluated; --task TASK --help shows its options")
    add("--model", type=Path, required=True, metavar="DIR", help="a model, or the folder of a run")
    add("--data", metavar="MANIFEST", help="manifest (.csv, .jsonl); without it: the built-in sample")
    add("--split", help="of the manifest (default: val, validation and test; a probe takes its own)")
    add(
        "--label",
        metavar="COLUMN",
        help="column with the label (default: label; of the sample: motion or shape)",
    )
    add("--clips", type=_positive, help="windows of a clip, spread evenly over it (default: 4; pictures: 1)")
    add("--crops", type=_positive, help="squares of each window (default: 3 for --task video, else 1)")
    add("--batch-size", type=_positive, default=8, help="clips of a batch (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: bf16 on a GPU, fp32 on a CPU)")
    add("--workers", type=_natural, default=2, help="decoding processes of each rank (default: %(default)s)")
    add("--max-bad-share", type=_share, default=0.1, help="of unreadable clips before it fails (default: %(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures there")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # the DeepSpeed launcher adds it
    if task is None:
        parser.parse_args(arguments)
        parser.error("--task is missing")
    module = import_module(f"train.evaluation.{TASKS[task]}")
    module.add_arguments(parser)
    return parser.parse_args(arguments), module


def _positive(text: str) -> int:
    """argparse turns the ValueError into a message that names the flag."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _natural(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError
    return value


def main(arguments: list[str]) -> int:
    """Runs a task; 0 when it ended as asked, 1 with a message when it could not."""
    options, module = parse(arguments)
    try:
        place = Place(*start_distributed())
        prepare_out(options, place)
        if options.data is None:
            use_sample(options, place)
        code = module.run(options, place)
        stop_distributed()
        return code
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"error: {error.filename or options.out}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    except RuntimeError as error:
        if not peer_lost(error):
            raise
        print("error: another rank has ended, for a reason of its own", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as train/pretrain.py: threads of the communication library may abort the interpreter's own end
