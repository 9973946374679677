"""``vatt search INDEX "words"``: moments of an index, by words, a sound, a film or a picture."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli.progress import waiting
from vatt.errors import UserError, printable
from vatt.files import check_there
from vatt.json_files import json_line

if TYPE_CHECKING:
    from vatt.search import Hit, Index, Query

TARGETS = ("picture", "sound")  # those of vatt.search.encoder, which waits for PyTorch
NO_INDEX = "no such folder; make an index with: vatt index FOLDER --model M --out {}"
_PARTS = ("text", "audio", "video", "image")


class ArgumentError(UserError, ValueError):
    """A flag that makes no sense; told before PyTorch is waited for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("index", type=Path, metavar="INDEX", help="folder that `vatt index` has made")
    add("words", nargs="?", metavar="WORDS", help="a sentence that says what is seen")
    add("--text", metavar="WORDS", help="the same, as an option")
    add("--audio", metavar="FILE[@S]", help="a sound, or the sound of a film; @12.5: at that second")
    add("--video", metavar="FILE[@S]", help="a film; @12.5: what is seen at that second")
    add("--image", metavar="FILE", help="a picture")
    add("--weights", metavar="K=W,...", help="of several of these: text=2,audio=1 (1 each; below 0: the less like it)")
    add("--in", dest="target", choices=TARGETS, help="what of the films is compared (a sound: sound; else picture)")
    add("--top", type=int, default=10, metavar="N", help="moments that are shown (%(default)s)")
    add("--per-file", type=int, default=3, metavar="N", help="moments of a file at most; 0: any number (%(default)s)")
    add("--all", action="store_true", help="near copies of a moment, too, which are folded otherwise")
    add("--folder", default="", metavar="NAME", help="only files in this folder of the source")
    add("--min-length", type=float, default=0.0, metavar="S", help="only files of so many seconds or more")
    add("--max-length", type=float, default=math.inf, metavar="S", help="only files of so many seconds or fewer")
    add("--store", metavar="URI", help="where `vatt index --store` has put a copy; then not all windows are looked at")
    add("--json", action="store_true", help="a line of JSON for each moment")
    add("--model", type=Path, metavar="DIR", help="where the model of the index is now")
    add("--device", default="cpu", metavar="D", help="of the model (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Searches and prints. Raises UserError: the index, the model or the query cannot be used."""
    if options.words is not None and options.text is not None:
        raise ArgumentError("--text: the words are given twice")
    options.text = options.text if options.text is not None else options.words
    if all(getattr(options, part) is None for part in _PARTS):
        raise ArgumentError("nothing to look for: give words, or --audio, --video or --image")
    if options.top < 1 or options.per_file < 0:
        name = "top" if options.top < 1 else "per-file"
        raise ArgumentError(f"--{name}: must be {1 if name == 'top' else 0} or more")
    for name in ("min_length", "max_length"):
        if math.isnan(getattr(options, name)):
            raise ArgumentError(f"--{name.replace('_', '-')}: must be a number of seconds, got nan")
    weights = _weights(options)
    check_there(options.index, NO_INDEX.format(printable(options.index)))
    with waiting("reading the index and the model"):
        from vatt.search import Filter, Index
        from vatt.search.lance import LanceCopy

        index = Index.open(options.index, options.model, options.device)
        if options.store is not None:
            index.copy = LanceCopy.open(options.store, index)
        filters = Filter(options.folder, (), options.min_length, options.max_length)
        hits = index.search(
            _queries(index, options, weights),
            options.top,
            filters,
            fold=not options.all,
            per_file=options.per_file or None,
        )
    for hit in hits:
        print(json_line(hit.as_json()) if options.json else as_line(hit))
    if not hits and not options.json:
        print("nothing was found" + printable(f" in the folder {options.folder}" if options.folder else ""))
    return 0


def _weights(options: argparse.Namespace) -> dict[str, float]:
    """From "text=2,audio=1". Raises ArgumentError."""
    found = {part: 1.0 for part in _PARTS if getattr(options, part) is not None}
    for word in filter(None, (options.weights or "").split(",")):
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in found or not math.isfinite(number):
            raise ArgumentError(f"--weights: {word!r}: must be K=W with a number W and K of {', '.join(found)}")
        found[name] = number
    if not any(found.values()):
        raise ArgumentError("--weights: all are 0")
    return found


def _queries(index: Index, options: argparse.Namespace, weights: dict[str, float]) -> list[Query]:
    encoder, target = index.encoder, options.target
    encoder.workers = 1  # a file that means harm costs a process of its own
    found = []
    if options.text is not None:
        found.append(encoder.words(options.text, target=target))
    if options.audio is not None:
        path, at = _moment(options.audio)
        found.append(encoder.sound(path, at=at, target=target))
    if options.video is not None:
        path, at = _moment(options.video)
        found.append(encoder.film(path, at, target=target))
    if options.image is not None:
        found.append(encoder.picture(options.image, target=target))
    return [query.weighted(weights[query.name]) for query in found]


def _moment(text: str) -> tuple[str, float | None]:
    """FILE, or FILE@SECONDS where no file has the whole name."""
    path, mark, at = text.rpartition("@")
    if not mark or os.path.exists(text):
        return text, None
    try:
        seconds = float(at)
    except ValueError:
        return text, None
    if not 0 <= seconds < 1e9:
        raise ArgumentError(f"{text}: @{at}: must be seconds from the beginning of the file")
    return path, seconds


def as_line(hit: Hit) -> str:
    """A moment as a terminal may have it."""
    file = hit.window.file
    words = f"  {hit.window.caption}" if hit.window.caption else ""
    copies = f"  (+{len(hit.duplicates)} like it)" if hit.duplicates else ""
    when = "" if file.kind == "image" else f"  {clock(hit.start_s)}-{clock(hit.end_s)}"
    return printable(f"{hit.score:6.3f}{when}  {file.name if file.path is None else file.path}{copies}{words}")


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
