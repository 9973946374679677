"""Searches a folder of videos with sentences: an index of their embeddings, made once, and a dot product a query."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from vatt import VATT
from vatt.errors import UserError, printable
from vatt.inference.job import EmbedJob, embed_dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sentences", nargs="*", default=["a red circle", "the square spins"], metavar="SENTENCE")
    parser.add_argument("--videos", type=Path, default=Path("runs/sample-clips/val"), help="folder or manifest")
    parser.add_argument("--split", help="of a manifest: only its clips (all)")
    parser.add_argument("--model", type=Path, default=Path("runs/sample"), help="model or run, with its words")
    parser.add_argument("--index", type=Path, help="FILE.npy, made if it is not there (runs/index-VIDEOS-MODEL.npy)")
    parser.add_argument("--top", type=int, default=3, help="videos shown for each sentence (%(default)s)")
    parser.add_argument("--windows", type=int, default=4, help="of a video, averaged (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (%(default)s)")
    options = parser.parse_args()
    videos = f"{options.videos.stem}-{options.split}" if options.split else options.videos.stem
    index = options.index or Path("runs", f"index-{videos}-{options.model.stem}.npy")
    how = {"windows": options.windows, "workers": options.workers, "split": options.split}
    try:
        # Before the long work: a sentence of words that the model does not know is refused.
        queries_QD = VATT.from_pretrained(options.model).embed_text(options.sentences, space="video").numpy()
        # As `vatt embed`: a stopped job goes on at the next start, and a finished one is not done again.
        job = EmbedJob(options.videos, options.model, index, "video", "text", **how)
        done = embed_dataset(
            job, lambda now, total, faults: print(f"\r{now} of {total} videos", end="", file=sys.stderr)
        )
        print(f"\n{done.rows} videos in {index}, {done.faults} faults", file=sys.stderr)
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    videos_ND = np.load(index, mmap_mode="r")
    rows = json.loads(index.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    for sentence, similar_N in zip(options.sentences, queries_QD @ videos_ND.T, strict=True):
        print(printable(sentence))
        for row in np.argsort(-similar_N)[: options.top]:
            print(f"  {similar_N[row]:.3f}  {printable(rows[row]['file'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
