"""``vatt sample``: builds the sample set and prints chance and the oracle's level."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vatt.errors import printable
from vatt.sample import build, levels, table
from vatt.sample.writing import TRAIN, VAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/sample-clips"), metavar="DIR", help="folder (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn at random (0)")
    add("--train", type=int, default=TRAIN, metavar="N", help="training clips (%(default)s)")
    add("--val", type=int, default=VAL, metavar="N", help="held-out clips (%(default)s)")
    add("--workers", type=int, metavar="N", help="processes (all cores)")


def run(options: argparse.Namespace) -> int:
    """Writes the clips; says what can be reached on them. Raises SampleError, EncoderError: they are not written."""
    start = time.monotonic()
    sizes = {"train": options.train, "val": options.val}
    manifest = build(options.out, seed=options.seed, **sizes, workers=options.workers, say=print)
    seconds = time.monotonic() - start
    print(f"{printable(manifest)}: {options.train} training and {options.val} held-out clips ({seconds:.1f} s)")
    if options.val:
        print(table(levels(manifest)))
    return 0
