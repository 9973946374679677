"""``vatt data pack``: a data set transcoded once, into shards that decode fast."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from vatt.cli.progress import listed, progress
from vatt.data.pack import QUALITY, SOUNDS, PackError, PackJob, PackResult, pack
from vatt.data.shards.format import FAULTS, Settings
from vatt.errors import printable
from vatt.signals import status_of, words_of

_RATE = 48000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of pack."""
    parser.add_argument("source", type=Path, metavar="MANIFEST_OR_FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="SHARDS", help="folder of the shards")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="shorter side of the picture (256)")
    parser.add_argument("--fps", type=float, default=10.0, metavar="F", help="frames a second (10)")
    parser.add_argument("--window", type=float, default=3.2, metavar="S", help="longest window of a model (3.2)")
    parser.add_argument("--codec", choices=tuple(QUALITY), default="mpeg4", help="of the picture (mpeg4)")
    parser.add_argument(
        "--quality", type=int, metavar="Q", help="quantiser, from 1 (best) to 31; of h264 the constant rate factor (21)"
    )
    parser.add_argument("--sound", choices=SOUNDS, default="pcm", help="codec of the sound; both lose nothing (pcm)")
    parser.add_argument("--shard-size", type=float, default=512.0, metavar="MB", help="limit for a shard (512)")
    parser.add_argument("--split", metavar="NAME", help="rows of this split alone: train, val, test, ... (all)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (one a core)")
    parser.add_argument("--shard-of", default="1/1", metavar="I/N", help="the I-th of N shares: a job of an array")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="limit for a minute of a file (600)")


def run(options: argparse.Namespace) -> int:
    """0, also with faults, which are listed; 1 if nothing could be packed. Raises UserError: it cannot be done."""
    workers = len(os.sched_getaffinity(0)) if options.jobs is None else options.jobs
    share = re.fullmatch(r"(\d{1,9})/(\d{1,9})", options.shard_of)
    if share is None:
        raise PackError(f"--shard-of {options.shard_of[:40]}: must be I/N, such as 1/8")
    place = (int(share[1]), int(share[2]))
    job = PackJob(options.source, options.out, settings_of(options), workers, place, options.seconds, options.split)
    begun = time.monotonic()
    try:
        with progress("clips") as tell:
            result = pack(job, tell, lambda words: print(printable(words), file=sys.stderr))
    except KeyboardInterrupt as error:
        what = "what is packed so far stays; start the same command again to go on"
        print(f"{words_of(error)}: {what}", file=sys.stderr)
        return status_of(error)
    print(printable(_words(options.out, result, time.monotonic() - begun), keep="\n"))
    return 0


def settings_of(options: argparse.Namespace) -> Settings:
    """Of the shards. Raises PackError: one that cannot be."""
    for name, least, most in (("size", 16, 8192), ("fps", 0.5, 240), ("window", 0.1, 60), ("shard_size", 1, 1e6)):
        if not least <= getattr(options, name) <= most:
            flag = name.replace("_", "-")
            raise PackError(f"--{flag}: must be from {least} to {most:g}, got {getattr(options, name):g}")
    quality = QUALITY[options.codec] if options.quality is None else options.quality
    if not 1 <= quality <= 31:
        raise PackError(f"--quality: must be from 1 to 31, got {quality}")
    if options.size % 2:
        raise PackError(f"--size: must be even, got {options.size}")
    return Settings(
        size=options.size,
        fps=options.fps,
        window=options.window,
        piece=60.0,
        shard_size=round(options.shard_size * 1e6),
        rate=_RATE,
        video=f"{options.codec} q={quality}",
        sound=options.sound,
        image="mjpeg q=2",
    )


def _words(out: Path, result: PackResult, seconds: float) -> str:
    if result.nothing_to_do:
        words = f"{out}: is finished, nothing was left to do"
    else:
        words = f"{result.clips} clips done in {seconds:.1f} s; {listed(result.faults)}"
    if result.index is None:
        return f"{words}\n{out}: {result.left} groups of other jobs are not done; the last job writes the index"
    index = result.index
    size, hours = f"{index.bytes / 1e6:,.0f} MB", f"{index.seconds / 3600:.2f} hours"
    counts = f"{index.clips} clips of {index.sources} files in {index.pieces} pieces, {hours}, {size}"
    where = f"; {index.faults} faults in {out / FAULTS}" if index.faults else ""
    return f"{words}\n{out}: {len(index.shards)} shards, {counts}{where}"
