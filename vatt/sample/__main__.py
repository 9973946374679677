"""``python -m vatt.sample``: builds the sample set and prints chance and the oracle's level."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vatt import signals
from vatt.errors import printable
from vatt.sample import EncoderError, SampleError, build, levels, table
from vatt.sample.writing import TRAIN, VAL


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vatt.sample", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/sample-clips"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=TRAIN, help="training clips (default: %(default)s)")
    parser.add_argument("--val", type=int, default=VAL, help="held-out clips (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    options = parser.parse_args()
    start = time.monotonic()
    try:
        sizes = {"train": options.train, "val": options.val}
        with signals.ending():
            manifest = build(options.out, seed=options.seed, **sizes, workers=options.workers, say=print)
    except (SampleError, EncoderError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except signals.SignalInterrupt as stopped:
        print(stopped, file=sys.stderr)
        return signals.status_of(stopped)
    print(f"{manifest}: {options.train} training and {options.val} held-out clips ({time.monotonic() - start:.1f} s)")
    if options.val:
        print(table(levels(manifest)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
