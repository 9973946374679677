"""``python -m vatt.sample``: builds a sample set and prints chance and the oracle's level."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from vatt import signals
from vatt.cli.progress import progress
from vatt.errors import printable
from vatt.sample import EncoderError, SampleError, build, levels, table
from vatt.sample.scene import SETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vatt.sample", description=__doc__)
    add = parser.add_argument
    add("--set", choices=SETS, default="default", help="large: 6,528 clips that teach the shape (default: %(default)s)")
    add("--out", type=Path, help="folder (default: runs/sample-clips, of the large set runs/sample-large)")
    add("--seed", type=int, default=0)
    add("--train", type=int, help="training clips (default: those of the set, 768 or 6144)")
    add("--val", type=int, help="held-out clips (default: those of the set, 96 or 384)")
    add("--workers", type=int, help="processes (default: all cores)")
    options = parser.parse_args()
    of = SETS[options.set]
    out = options.out or Path(of.folder)
    train, val = of.train if options.train is None else options.train, of.val if options.val is None else options.val
    start = time.monotonic()
    try:
        with signals.ending(), progress("clips") as tell:
            chosen: dict[str, Any] = {"name": of.name, "seed": options.seed, "train": train, "val": val}
            manifest = build(out, **chosen, workers=options.workers, say=print, tell=tell)
    except (SampleError, EncoderError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except signals.SignalInterrupt as stopped:
        print(stopped, file=sys.stderr)
        return signals.status_of(stopped)
    print(f"{manifest}: {train} training and {val} held-out clips ({time.monotonic() - start:.1f} s)")
    if val:
        print(table(levels(manifest)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
