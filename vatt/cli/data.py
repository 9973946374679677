"""``vatt data NAME``: published annotations to a manifest. ``vatt data check``: try all files of a data set.

``vatt data pack`` has a file of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli import pack
from vatt.cli.progress import listed, progress, waiting
from vatt.data.clips import ManifestError
from vatt.data.datasets import DATASETS, read_dataset
from vatt.data.manifest import write_lines, write_manifest
from vatt.errors import printable
from vatt.files import check_there
from vatt.signals import status_of, words_of

if TYPE_CHECKING:
    from vatt.data.check import Checked
    from vatt.data.check.cache import ResultCache

_MOST_CLASSES = 40  # that are printed with a line each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each data set, check and pack."""
    commands = parser.add_subparsers(dest="set", required=True, metavar="NAME")
    for name, info in DATASETS.items():
        what = f"annotations: {info.about}"
        _set_arguments(commands.add_parser(name, help=what, description=what, allow_abbrev=False), name)
    what = "try every file of a manifest or folder, and write a manifest of the good ones"
    _check_arguments(commands.add_parser("check", help=what, description=what, allow_abbrev=False))
    what = "transcode a manifest or folder once, into shards that decode fast"
    pack.add_arguments(commands.add_parser("pack", help=what, description=what, allow_abbrev=False))


def _set_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    info = DATASETS[name]
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        nargs="+",
        action="extend",
        required=info.least > 0,
        default=None if info.least else [],
        help="published files, or a folder of them; may be given several times",
    )
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", required=True, help="folder of the files, searched through"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="manifest to write")
    parser.add_argument("--missing", type=Path, metavar="FILE", help="write the names of missing files, one a line")
    for flag in info.flags:
        if flag.choices is None:
            parser.add_argument(f"--{flag.name}", action="store_true", help=flag.help)
        else:
            parser.add_argument(f"--{flag.name}", choices=flag.choices, default=flag.default, help=flag.help)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="MANIFEST_OR_FOLDER", help="or a folder of shards, to verify it")
    parser.add_argument("--out", type=Path, metavar="CLEAN.jsonl", help="manifest of the rows that can be used")
    parser.add_argument("--report", type=Path, metavar="FAULTS.jsonl", help="what is wrong with the others")
    parser.add_argument("--counts", type=Path, metavar="FILE.csv", help="clips of each class in each split")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="decoding processes (2)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="limit for a file (30)")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column of the labels (label)")
    parser.add_argument("--split", metavar="NAME", help="rows of this split alone: train, val, test, ... (all)")
    parser.add_argument(
        "--sound", action="store_true", help="name videos without sound and silent clips, count equal sounds"
    )
    parser.add_argument("--need-sound", action="store_true", help="as --sound, and such clips are left out as faults")
    parser.add_argument("--quick", action="store_true", help="of shards: compare the sizes of files alone")


def run(options: argparse.Namespace) -> int:
    """0, or 1 if no row is left. Raises UserError: the data or a setting cannot be used."""
    if options.set == "pack":
        return pack.run(options)
    if options.out is not None and options.out.suffix != ".jsonl":  # before the long work
        raise ManifestError(f"{options.out}: the manifest must end in .jsonl")
    return _check(options) if options.set == "check" else _write_manifest(options)


def _write_manifest(options: argparse.Namespace) -> int:
    flags = {flag.name: getattr(options, flag.name) for flag in DATASETS[options.set].flags}
    found = read_dataset(options.set, options.annotations, options.videos, **flags)
    print(found.summary())
    if options.missing is not None:
        write_lines(options.missing, found.missing)
        print(printable(options.missing))
    write_manifest(found.rows, options.out)
    print(printable(options.out))
    return 0


def _check(options: argparse.Namespace) -> int:
    check_there(options.source, "no such folder or manifest")
    with waiting("starting PyTorch"):
        from vatt.data.check import CheckError
        from vatt.data.check.cache import ResultCache, cache_path
        from vatt.data.check.shards import is_shards

    if not 0 < options.seconds < float("inf"):
        raise CheckError(f"--seconds must be above 0, got {options.seconds:g}")
    _check_paths(options)
    begun = time.monotonic()
    with ResultCache(cache_path(options.source)) as cache:
        if cache.found:
            print(f"going on: {cache.found} were tried before; to begin anew, remove {cache.path}", file=sys.stderr)
        try:
            status = (_check_shards if is_shards(options.source) else _check_media)(options, begun, cache)
        except KeyboardInterrupt as error:
            what = "what was tried so far is kept; start the same command again to go on"
            print(f"{words_of(error)}: {what}", file=sys.stderr)
            return status_of(error)
        cache.remove()
    return status


def _check_media(options: argparse.Namespace, begun: float, cache: ResultCache) -> int:
    """0, or 1 if no row is left."""
    from vatt.data.check import check, write_clean, write_skipped

    with progress("files") as tell:
        checked = check(
            options.source,
            workers=options.workers,
            seconds=options.seconds,
            sound=options.sound or options.need_sound,
            need_sound=options.need_sound,
            column=options.label,
            split=options.split,
            progress=tell,
            cache=cache,
        )
    taken = time.monotonic() - begun
    print(f"{checked.files} files tried in {taken:.1f} s; {len(checked.rows)} rows are good; {listed(checked.skipped)}")
    for note in checked.notes:
        print(printable(note))
    if checked.sounds:
        print(checked.sounds)
    if checked.silent:
        print(f"without sound: {listed(checked.silent, 'clips')}")
        print("they stay, for their pictures and captions; --need-sound leaves them out")
    _print_counts(checked)
    if options.report is not None:
        write_skipped([*checked.skipped, *checked.silent], options.report)
        print(printable(options.report))
    if options.counts is not None:
        write_lines(options.counts, checked.counts.table())
        print(printable(options.counts))
    if not checked.rows:
        print("error: no row is left", file=sys.stderr)
        return 1
    if options.out is not None:
        write_clean(checked.rows, options.source, options.out)
        print(printable(options.out))
    return 0


def _check_shards(options: argparse.Namespace, begun: float, cache: ResultCache) -> int:
    """0, or 1 if anything is wrong with a shard."""
    from vatt.data.check import CheckError, write_skipped
    from vatt.data.check.shards import check_shards

    if options.workers < 1:
        raise CheckError(f"workers must be 1 or more, got {options.workers}")
    for name in ("out", "counts", "split"):
        if getattr(options, name) is not None:
            raise CheckError(f"--{name}: is for manifests and folders of media; {options.source} holds shards")
    with progress("shards") as tell:
        checked = check_shards(options.source, workers=options.workers, quick=options.quick, progress=tell, cache=cache)
    index, taken = checked.index, time.monotonic() - begun
    what = "sizes compared" if options.quick else f"{index.pieces} pieces read"
    print(f"{len(index.shards)} shards, {what} in {taken:.1f} s; {listed(checked.faults)}")
    if options.report is not None:
        write_skipped(checked.faults, options.report)
        print(printable(options.report))
    return 1 if checked.faults else 0


def _check_paths(options: argparse.Namespace) -> None:
    """Before the long work. Raises ManifestError: two of the files are one, or the folder of one is not there."""
    seen = {options.source.resolve(): "the manifest that is checked"}
    for name in ("out", "report", "counts"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        if (real := path.resolve()) in seen:
            raise ManifestError(f"--{name} {path}: is {seen[real]}; choose another name")
        if not real.parent.is_dir() or real.is_dir():
            raise ManifestError(f"--{name} {path}: cannot be written; its folder must be there")
        seen[real] = f"--{name} already"


def _print_counts(checked: Checked) -> None:
    counts = checked.counts
    if counts.classes:
        for line in counts.lines(_MOST_CLASSES):
            print(printable(line))
    for warning in counts.warnings():
        print(f"warning: {printable(warning)}", file=sys.stderr)
