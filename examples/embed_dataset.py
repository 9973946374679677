"""Features of a labelled data set, and what scikit-learn makes of them: nearest neighbours and logistic regression."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vatt import VATT, ManifestError, read_clips
from vatt.data import DataConfig, hold_out
from vatt.data.labels import find_classes
from vatt.errors import UserError, printable
from vatt.inference import embed_clips


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="runs/sample-clips/manifest.csv", help="manifest with split train")
    parser.add_argument("--split", default="val", help="to test on; test where there is no val (%(default)s)")
    parser.add_argument("--model", type=Path, default=Path("runs/sample"), help="model or run (%(default)s)")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column of the label (%(default)s)")
    parser.add_argument("--modality", choices=("video", "audio"), default="video")
    parser.add_argument("--windows", type=int, default=4, help="of a file, averaged (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (%(default)s)")
    options = parser.parse_args()
    try:
        sides = hold_out(read_clips(options.data).clips, 0.2, options.split)
        if not all(sides):
            raise ManifestError(f"{options.data}: needs clips of both splits, train and {options.split}")
        classes = find_classes([*sides[0], *sides[1]], options.data, options.label)
        model = VATT.from_pretrained(options.model)
        data = []
        for clips in sides:
            how = {"space": "features", "windows": options.windows, "config": DataConfig(workers=options.workers)}
            found = list(embed_clips(model, clips, options.modality, **how))
            for record in [record for batch in found for record in batch.skipped]:
                print(printable(f"left out: {record['file']}: {record['reason']}"), file=sys.stderr)
            labels = [classes.numbers(clips[number])[0] for batch in found for number in batch.numbers]
            data.append((torch.cat([batch.x_BD for batch in found]).numpy(), labels))
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    (x, y), (x_test, y_test) = data
    print(f"{len(y)} clips of {len(classes.names)} classes to learn from, {len(y_test)} to test")
    for name, kind in (("5 nearest", KNeighborsClassifier(min(5, len(y)))), ("logistic", LogisticRegression(C=0.1))):
        fitted = make_pipeline(StandardScaler(), kind).fit(x, y)
        print(f"{name:12} {fitted.score(x_test, y_test):6.1%} right")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
