"""HowTo100M and AudioSet with the flags of the first version; all sets: ``vatt data``.

``python -m vatt.data.datasets howto100m --captions caption.json --videos DIR --out howto100m.jsonl``
``python -m vatt.data.datasets audioset --segments balanced_train_segments.csv --videos DIR --out audioset.jsonl``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vatt.data.datasets import adapt, write_manifest
from vatt.data.manifest import ManifestError


def main(arguments: list[str] | None = None) -> int:
    """Writes a manifest; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vatt.data.datasets", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    how = kinds.add_parser("howto100m", help="narrated videos")
    how.add_argument("--captions", type=Path, required=True, help="caption.json", dest="first")
    how.add_argument("--details", type=Path, help="HowTo100M_v1.csv", dest="second")
    sets = kinds.add_parser("audioset", help="10 s clips with sound labels")
    sets.add_argument(
        "--segments",
        type=Path,
        required=True,
        help="balanced_train_segments.csv or another of the three",
        dest="first",
    )
    sets.add_argument("--labels", type=Path, help="class_labels_indices.csv", dest="second")
    for made in (how, sets):
        made.add_argument("--videos", type=Path, required=True, help="folder of the downloaded videos")
        made.add_argument("--out", type=Path, required=True, help="manifest to write (.jsonl)")
    options = parser.parse_args(arguments)
    try:
        found = adapt(options.kind, [path for path in (options.first, options.second) if path], options.videos)
        print(found.summary())
        write_manifest(found.rows, options.out)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
