"""Names what videos, sounds or pictures show, with a classifier that `deepspeed train/finetune.py` has made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vatt import Classifier, MediaError
from vatt.data import Views
from vatt.errors import UserError, printable

SAMPLES = [Path(f"runs/sample-clips/val/{number:04d}.mp4") for number in range(4)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=SAMPLES, help="default: four of the built-in sample")
    parser.add_argument(
        "--model", type=Path, default=Path("runs/sample-vatt-tiny-video"), help="run or model (%(default)s)"
    )
    parser.add_argument("--top", type=int, default=3, help="classes shown (%(default)s)")
    parser.add_argument("--clips", type=int, help="windows of a file (default: 4; of a picture 1)")
    parser.add_argument("--crops", type=int, default=3, help="squares of a window, with --clips (%(default)s)")
    options = parser.parse_args()
    views = Views(options.clips, options.crops) if options.clips else None
    unreadable = 0
    try:
        model = Classifier.from_pretrained(options.model)
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    for file in options.files:
        try:
            found = model.classify(file, options.top, views=views)
        except MediaError as error:  # the others may still be good
            print(f"error: {printable(error)}", file=sys.stderr)
            unreadable += 1
            continue
        print(printable(f"{file}: " + ", ".join(f"{name} {share:.1%}" for name, share in found)))
    return 1 if unreadable else 0


if __name__ == "__main__":
    raise SystemExit(main())
