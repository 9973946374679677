"""Opening an index to write: it is one, was made with the same model and settings, and its segments are sound."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vatt.errors import printable
from vatt.search.format import (
    ABOUT,
    LOCK,
    SEGMENTS,
    About,
    SearchError,
    Segment,
    read_segment,
    segment_paths,
)
from vatt.search.model import check_same
from vatt.search.state import State
from vatt.weights.tensors import TensorFile, TensorFileError

_log = logging.getLogger(__name__)


def prepare(out: Path) -> None:
    """Raises SearchError: a folder that is there, and is no index."""
    if out.exists() and not (out / ABOUT).is_file():
        other = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
        if other - {LOCK, SEGMENTS, f".{ABOUT}.partly"}:
            raise SearchError(f"{out}: is there, and is no index; name another --out")
    out.mkdir(parents=True, exist_ok=True)


def agreed(about: About, folder: Path, moved: bool = False) -> About:
    """What an index is to be made with, which is what it was made with. Raises SearchError: it was made otherwise."""
    if not (folder / ABOUT).is_file():
        return about
    before = check_settings(about, folder)
    if before.source != about.source and not moved and (_is_there(before.source) or "://" in about.source):
        raise SearchError(
            f"{folder}: is an index of {before.source}, not of {about.source}; name another --out, or say --moved if "
            "these are the same files"
        )
    return about


def check_settings(about: About, folder: Path) -> About:
    """What an index was made with. Raises SearchError: another model, or other settings."""
    before = About.read(folder)
    check_same(before, about.model, folder)
    names = {**before.settings, **about.settings}
    differ = [
        f"{name} was {before.settings.get(name)!r}, is {about.settings.get(name)!r}"
        for name in names
        if before.settings.get(name) != about.settings.get(name)
    ]
    if differ or before.vectors != about.vectors:
        raise SearchError(f"{folder}: made with other settings: {'; '.join(differ) or 'vectors'}; name another --out")
    return before


def _is_there(source: str) -> bool:
    return "://" in source or os.path.exists(source)


def sound_segments(out: Path, widths: dict[str, int]) -> tuple[list[Segment], list[str]]:
    """The segments that agree with their checksums; others are set aside, and named."""
    found, damaged = list[Segment](), list[str]()
    for path in segment_paths(out):
        try:
            TensorFile(path)  # which also looks for values that are no numbers
            segment = read_segment(path, widths)
            State().apply([segment])  # whether its records are such
            found.append(segment)
        except (TensorFileError, SearchError) as error:
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            damaged.append(aside.name)
            _log.warning("%s", printable(error))
    return found, damaged
