"""The command line of evaluation: the options of all tasks, and those of one."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.core.command import Parser, add_local_rank, not_negative, positive, share
from train.evaluation import classification, probe, retrieval
from vatt.data.splits import SHARE
from vatt.precision import PRECISIONS

DESCRIPTION = """Evaluates a model: ``python train/evaluate.py --task {video,audio,image,retrieval,probe}``; also under
``deepspeed``. Several ranks share the clips, each clip on one of them, and give the figures of one rank."""
TASKS = {
    "video": classification,
    "audio": classification,
    "image": classification,
    "retrieval": retrieval,
    "probe": probe,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line, which depend on its task."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", choices=tuple(TASKS))
    task = first.parse_known_args(arguments)[0].task
    parser = Parser(
        prog="train/evaluate.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=tuple(TASKS), required=True, help="what is evaluated; --task TASK --help shows its options")
    add("--model", type=Path, required=True, metavar="DIR", help="a model, or the folder of a run")
    add(
        "--data",
        metavar="MANIFEST",
        help="manifest (.csv, .jsonl), or shards or their URL; without it: the built-in sample",
    )
    add("--split", help="clips of this split: val, test, ..., or all (default: val, or test where there is no val)")
    add("--eval-share", type=share, help=f"val, where no split is named (default: the run's, or {SHARE})")
    add("--label", metavar="COLUMN", help="column with the label (default: label; of the sample: motion or shape)")
    add("--clips", type=positive, help="windows of a clip, spread evenly over it (default: 4; pictures: 1)")
    add("--crops", type=positive, help="squares of each window (default: 3 for --task video, else 1)")
    add("--batch-size", type=positive, default=8, help="clips of a batch (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: bf16 on a GPU, fp32 on a CPU)")
    add("--workers", type=not_negative, default=2, help="decoding processes of each rank (default: %(default)s)")
    add("--max-bad-share", type=share, default=0.1, help="of unreadable clips before it fails (default: %(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures there")
    add_local_rank(parser)
    if task is None:
        parser.parse_args(arguments)
        parser.error("--task is missing")
    TASKS[task].add_arguments(parser)
    return parser.parse_args(arguments)
