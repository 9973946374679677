"""``vatt embed SOURCE --model DIR --out FILE``: embeddings of all videos, sounds or sentences of a data set."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli.progress import progress, waiting
from vatt.errors import UserError, printable
from vatt.files import check_there
from vatt.inference.spaces import MODALITIES
from vatt.precision import PRECISIONS

if TYPE_CHECKING:
    from vatt.inference.job import EmbedResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="folder, manifest (.csv, .tsv, .jsonl, .parquet), shards or their URL, or .txt with one sentence per line",
    )
    add("--model", type=Path, required=True, metavar="DIR", help="folder of a model or of a run")
    add("--out", type=Path, required=True, metavar="FILE", help="FILE.npy, with FILE.json beside it, or FILE.parquet")
    add("--modality", choices=MODALITIES, default="video", help="what of the source is embedded (video)")
    add("--space", metavar="NAME", help="video: text (default), audio; audio, text: video; each: features")
    add("--split", metavar="NAME", help="clips of this split alone: train, val, test, ... (all)")
    add("--windows", type=int, default=4, metavar="N", help="windows of a file that are averaged (4)")
    add("--batch-size", type=int, metavar="N", help="items of a batch (8; text: 256)")
    add("--workers", type=int, default=2, metavar="N", help="decoding processes (2)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (cuda, or cpu without one)")
    add("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: bf16 on a GPU, else fp32)")
    jobs = parser.add_mutually_exclusive_group()
    jobs.add_argument("--shard-of", metavar="I/N", help="the share of job I of N independent ones, I from 1 to N")
    jobs.add_argument("--join", action="store_true", help="write the result from the shares of all jobs")
    add("--vocabulary", type=Path, metavar="FILE", help="the words, for a model folder without tokenizer.json")


def run(options: argparse.Namespace) -> int:
    """Embeds and says what was done. Raises UserError: the source, the model or a setting cannot be used."""
    check_there(options.source, "no such folder or manifest")
    check_there(options.model)
    with waiting("starting PyTorch"):
        from vatt.environment import default_device
        from vatt.inference.job import EmbedJob, embed_dataset
        from vatt.inference.output import EmbedError
        from vatt.inference.shares import ALL, Share

    options.device = options.device or default_device()
    settings = {field.name: getattr(options, field.name) for field in fields(EmbedJob)}
    settings["shard_of"] = ALL if options.shard_of is None else Share.read(options.shard_of)
    if options.batch_size is None:
        settings["batch_size"] = 256 if options.modality == "text" else 8
    unit = "sentences" if options.modality == "text" else "clips"
    try:
        with progress(unit) as tell:
            done = embed_dataset(EmbedJob(**settings), tell)
    except UserError:
        raise
    except ValueError as error:  # a model that does not have what is asked for
        raise EmbedError(str(error)) from error
    except OSError as error:
        raise EmbedError(f"{error.filename or options.out}: {error.strerror or error}") from error
    _report(done, options, unit)
    return 0


def _report(done: EmbedResult, options: argparse.Namespace, unit: str) -> None:
    out: Path = options.out
    where = printable(out)
    what = (
        f"{where}: {done.rows} rows" if options.shard_of is None else f"{where}, {options.shard_of}: {done.rows} rows"
    )
    for name in done.redone:
        print(
            f"warning: {printable(name)} of the earlier start could not be read; its items were done again",
            file=sys.stderr,
        )
    if options.join:
        print(f"{what}; joined")
    elif not done.items:
        print(f"{where}: nothing was left to embed; {done.rows} rows")
    else:
        rate = done.items / max(done.seconds, 1e-9)
        print(f"{what}; {done.items} {unit} in {done.seconds:.1f} s, {rate:.1f} {unit}/s")
    if done.faults and options.shard_of is None:
        print(f"{done.faults} could not be embedded: {printable(out.with_suffix('.faults.jsonl'))}", file=sys.stderr)
    elif done.faults:
        print(f"{done.faults} could not be embedded; --join lists them", file=sys.stderr)
