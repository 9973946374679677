"""``vatt sample``: builds a sample set and prints chance and the oracle's level."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from vatt.cli.progress import progress
from vatt.errors import printable
from vatt.sample import build, levels, table
from vatt.sample.scene import SETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--set", choices=SETS, default="default", help="large: 6,528 clips that teach the shape (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder (runs/sample-clips, of the large set runs/sample-large)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn at random (0)")
    add("--train", type=int, metavar="N", help="training clips (those of the set: 768 or 6144)")
    add("--val", type=int, metavar="N", help="held-out clips (those of the set: 96 or 384)")
    add("--workers", type=int, metavar="N", help="processes (all cores)")


def run(options: argparse.Namespace) -> int:
    """Writes the clips; says what can be reached on them. Raises SampleError, EncoderError: they are not written."""
    of = SETS[options.set]
    out = options.out or Path(of.folder)
    train, val = of.train if options.train is None else options.train, of.val if options.val is None else options.val
    start = time.monotonic()
    with progress("clips") as tell:
        chosen: dict[str, Any] = {"name": of.name, "seed": options.seed, "train": train, "val": val}
        manifest = build(out, **chosen, workers=options.workers, say=print, tell=tell)
    seconds = time.monotonic() - start
    print(f"{printable(manifest)}: {train} training and {val} held-out clips ({seconds:.1f} s)")
    if val:
        print(table(levels(manifest)))
    return 0
