"""Searches a folder of videos with sentences, in an index of its windows that is made once and kept up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vatt.errors import UserError, printable
from vatt.search import Index, IndexJob, build_index


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sentences", nargs="*", default=["a red circle", "the square spins"], metavar="SENTENCE")
    parser.add_argument("--videos", type=Path, default=Path("runs/sample-clips/val"), help="folder or manifest")
    parser.add_argument("--split", help="of a manifest: only its clips (all)")
    parser.add_argument("--model", type=Path, default=Path("runs/sample"), help="model or run, with its words")
    parser.add_argument("--index", type=Path, help="its folder, made if it is not there (runs/index-VIDEOS-MODEL)")
    parser.add_argument("--top", type=int, default=3, help="moments shown for each sentence (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (%(default)s)")
    options = parser.parse_args()
    videos = f"{options.videos.stem}-{options.split}" if options.split else options.videos.stem
    folder = options.index or Path("runs", f"index-{videos}-{options.model.stem}")
    job = IndexJob(options.videos, options.model, folder, split=options.split, workers=options.workers)
    try:
        # A stopped job goes on at the next start, and what is done is not done again.
        done = build_index(
            job, lambda now, total, faults: print(f"\r{now} of {total} windows", end="", file=sys.stderr)
        )
        print(f"\n{done.windows} windows of {done.files} files in {folder}, {done.faults} faults", file=sys.stderr)
        index = Index.open(folder, options.model)
        for sentence in options.sentences:
            print(printable(sentence))
            for hit in index.search(index.encoder.words(sentence), top=options.top):
                print(f"  {hit.score:.3f}  {hit.start_s:.1f} s  {printable(hit.window.file.path)}")
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
