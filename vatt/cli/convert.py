"""``vatt convert``: a TensorFlow checkpoint to a folder that ``VATT.from_pretrained`` loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli.progress import waiting
from vatt.presets import CLASSIFIERS, PRESETS

if TYPE_CHECKING:
    from vatt.weights.tensorflow.convert import Conversion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join([*PRESETS, *CLASSIFIERS])
    parser.add_argument(
        "checkpoint",
        metavar="CKPT_PREFIX",
        help="of PREFIX.index and PREFIX.data-*, or a folder with a checkpoint file",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME_OR_CONFIG",
        help=f"{names}; or a .json: an official configuration or one of ours",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="section.field=value",
        help="changes of the model, e.g. text.vocab_size=30522",
    )


def run(options: argparse.Namespace) -> int:
    """Converts and prints an account of it. Raises UserError or OSError if it cannot."""
    with waiting("starting PyTorch"):
        from vatt.weights.tensorflow.convert import convert

    print(account(convert(options.checkpoint, options.model, options.out, options.overrides)))
    return 0


def account(report: Conversion) -> str:
    """What was converted and what was left out, in a few lines."""
    lines = [
        f"{report.model}: {len(report.converted)} variables converted, {report.parameters:,} parameters",
        f"left out: {len(report.slots)} optimizer slots, {len(report.bookkeeping)} of bookkeeping",
    ]
    if report.unused:
        lines.append(f"not used: {', '.join(report.unused)}")
    return "\n".join([*lines, f"written to {report.folder}"])
