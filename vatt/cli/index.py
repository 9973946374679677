"""``vatt index SOURCE --model M --out INDEX/``: makes an index to search in, or brings one up to date."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli.progress import progress, waiting
from vatt.errors import printable
from vatt.files import check_there
from vatt.precision import PRECISIONS

if TYPE_CHECKING:
    from vatt.search import IndexJob, IndexResult

_WORDS = {
    **{name: name for name in ("new", "changed", "left out", "moved", "copied", "back")},
    "same": "with another time and the same content",
    "captions": "with other captions",
    "label": "with another label",
    "deleted": "deleted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(begun=time.monotonic())  # nearly all of the start, which imports PyTorch, is yet to come
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of films and sounds, manifest, or shards (folder or URL)")
    add("--model", type=Path, required=True, metavar="DIR", help="folder of a pretraining model or of its run")
    add("--out", type=Path, required=True, metavar="INDEX", help="folder of the index, made if it is not there")
    add("--hop", type=float, metavar="S", help="seconds from one window to the next (half a window)")
    add("--split", metavar="NAME", help="clips of this split alone: train, val, test, ... (all)")
    add("--pictures", action="store_true", help="of a folder, picture files, too")
    add("--retry", action="store_true", help="read files again that could not be read before")
    add("--moved", action="store_true", help="SOURCE is where the files of the index are now")
    add("--batch-size", type=int, default=8, metavar="N", help="windows of a batch (%(default)s)")
    add("--workers", type=int, default=2, metavar="N", help="decoding processes of each device (%(default)s)")
    add(
        "--device",
        metavar="D",
        help="cpu, cuda, cuda:1; several with commas, a process each; all: every GPU (cuda, or cpu without one)",
    )
    add("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: bf16 on a GPU, else fp32)")
    jobs = parser.add_mutually_exclusive_group()
    jobs.add_argument("--shard-of", metavar="I/N", help="the share of job I of N independent ones, I from 1 to N")
    jobs.add_argument("--join", action="store_true", help="write the index from the shares of all jobs")
    add("--store", metavar="URI", help="a copy of the vectors in LanceDB, for millions: a folder, or s3://BUCKET/NAME")
    add("--vocabulary", type=Path, metavar="FILE", help="the words, for a model folder without tokenizer.json")


def run(options: argparse.Namespace) -> int:
    """Indexes and says what was done. Raises UserError: the source, the model or a setting cannot be used."""
    for path in (options.source, options.model):
        check_there(path)
    with waiting("starting PyTorch"):
        from vatt.environment import default_device
        from vatt.inference.shares import ALL, Share
        from vatt.search import Index, IndexJob, SearchError, build_index
        from vatt.search.joining import join_index
        from vatt.search.lance import LanceCopy, check_lance

    job = IndexJob(
        **{
            name: getattr(options, name)
            for name in (
                *("source", "model", "out", "hop", "split", "pictures", "batch_size", "workers", "precision"),
                *("vocabulary", "retry", "moved"),
            )
        },
        devices=devices_of(options.device or default_device()),
        shard_of=ALL if options.shard_of is None else Share.read(options.shard_of),
    )
    if options.store is not None:
        if job.folder != job.out:
            raise SearchError("--store: goes with --join, not with --shard-of: the copy is that of the whole index")
        check_lance(options.store)
    try:
        with progress("windows") as tell:
            done = join_index(job) if options.join else build_index(job, tell, tell)
    except OSError as error:
        raise SearchError(f"{error.filename or job.out}: {error.strerror or error}") from error
    _report(done, job, options.join, time.monotonic() - options.begun)
    if options.store is not None:
        with progress("windows copied") as tell:
            windows, files = LanceCopy(options.store, Index.open(job.out)).update(tell)
        print(f"{printable(options.store)}: {windows} windows copied, {files} files dropped")
    return 0


def devices_of(text: str) -> tuple[str, ...]:
    """The devices that ``--device`` names. Raises SearchError: one of them is none of PyTorch's, or not there."""
    import torch

    from vatt.search import SearchError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise SearchError(f"device: {name!r} is no device of PyTorch, such as cpu or cuda") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SearchError(f"device: {name}: PyTorch sees no CUDA device here")
    return tuple(names)


def _report(done: IndexResult, job: IndexJob, joined: bool, seconds: float) -> None:
    from vatt.search.format import FAULTS

    out = printable(job.out) + (f", {job.shard_of}" if job.shard_of.count > 1 else "")
    for name in done.redone:
        text = f"{job.folder}: a segment was damaged, its windows were done again: {name}"
        print(f"warning: {printable(text)}", file=sys.stderr)
    changes = ", ".join(f"{done.counts[name]} {words}" for name, words in _WORDS.items() if done.counts[name])
    what = f"{out}: {_count(done.files, 'file')}, {_count(done.windows, 'window')}"
    if joined:
        print(f"{what}; joined")
    elif done.embedded:
        rate = f"{_count(done.embedded, 'window')} embedded, {done.embedded / max(done.seconds, 1e-9):.1f} a second"
        print(f"{what}; {changes or 'went on'}; {rate}; {seconds:.1f} s in all")
    else:
        print(f"{what}; {changes or 'nothing has changed'}")
    if done.faults:
        files = f"left out, wholly or in part: {_count(done.faulty, 'file')}"
        print(f"{files}; why: {printable(job.folder / FAULTS)}", file=sys.stderr)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
