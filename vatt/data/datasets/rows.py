"""What the annotations of a data set give: rows of a manifest, and the media files that they are about."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.clips import ManifestError
from vatt.data.labels import SEPARATOR
from vatt.data.manifest import Row, media_files
from vatt.errors import printable
from vatt.files import kind_of

_SHOWN = 5
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # as os.fsdecode keeps bytes

# How the published files call their splits, and how a manifest does.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass
class DatasetRows:
    """What the annotation files of a data set gave.

    Attributes:
        rows: of the manifest.
        missing: names of annotated files that are not in the folder, each once.
        skipped: entries that cannot be used, with reasons.
        notes: what else a person should know.
    """

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Counts, the first missing names, and the first reasons, for people."""
        text = f"{len(self.rows)} rows; {len(self.missing)} files missing; {len(self.skipped)} entries left out"
        if self.missing:
            more = ", ..." if len(self.missing) > _SHOWN else ""
            text += f"\n  missing: {printable(', '.join(self.missing[:_SHOWN]))}{more}"
        text += "".join(f"\n  left out: {printable(reason)}" for reason in self.skipped[:_SHOWN])
        return text + "".join(f"\n  note: {printable(note)}" for note in self.notes)


def split_of(text: str, where: str) -> str:
    """train, val or test. Raises ManifestError for another name; ``where`` begins the message."""
    if (split := SPLITS.get(text.strip().lower())) is None:
        raise ManifestError(f"{where}: the split {text!r:.40} is not known; known are {', '.join(SPLITS)}")
    return split


def label_of(text: str, where: str) -> str:
    """A label without spaces around it; bytes of a folder's name that are not UTF-8 are read as Latin-1, so that two
    classes stay two. Raises ManifestError if it is empty or has the bar that separates labels."""
    label = _NOT_UTF8.sub(lambda byte: chr(ord(byte[0]) - 0xDC00), text).strip()
    if not label:
        raise ManifestError(f"{where}: the label is empty")
    if SEPARATOR in label:
        raise ManifestError(
            f"{where}: the label {label!r:.80} has a {SEPARATOR!r}, which separates labels in a manifest"
        )
    return label


def known_label(label: str, names: Mapping[str, Any] | Iterable[str], where: str, path: Path) -> str:
    """The label again. Raises ManifestError if the class list in ``path`` does not have it."""
    if label not in names:
        raise ManifestError(f"{where}: the label {label!r:.80} is not in {path}")
    return label


class MediaFiles:
    """The media files below a folder, by their names without suffix.

    Args:
        kinds: of "video", "audio" and "image"; where files of several kinds have one name, the first kind is taken.

    Raises:
        ManifestError: there is no such folder.
    """

    def __init__(self, folder: Path, kinds: Sequence[str] = ("video",)) -> None:
        self.folder, self.kinds = folder, kinds
        self._paths: dict[str, list[Path]] = defaultdict(list)
        self._ambiguous: set[str] = set()
        for path in media_files(folder, kinds):
            self._paths[path.stem].append(path)

    def find(self, *names: str, inside: Sequence[str] = ()) -> Path | None:
        """The file with the first of ``names`` (without suffix) that there is.

        Of several, one in folders with the names in ``inside`` (a class, a split) is preferred.
        """
        for name in names:
            if name not in self._paths:
                continue
            paths = self._paths[name]
            if len(paths) == 1:
                return paths[0]
            wanted = {_plain(text) for text in inside}
            replaced = [path for path in paths if any(part.startswith("replacement") for part in path.parts)]
            if replaced:  # the common mirror of Kinetics-400 has whole files there for some that are broken
                return replaced[0]
            ranked = sorted((self._rank(path, wanted), path) for path in paths)
            if ranked[0][0] == ranked[1][0]:
                self._ambiguous.add(name)
            return ranked[0][1]
        return None

    def notes(self) -> list[str]:
        """For people: the names that fit several files equally well, if there were any."""
        if not self._ambiguous:
            return []
        names = ", ".join(sorted(self._ambiguous)[:5])
        return [f"{len(self._ambiguous)} names are those of several files, the first path was taken: {names}"]

    def _rank(self, path: Path, wanted: set[str]) -> tuple[int, int]:
        return self.kinds.index(kind_of(path) or ""), -len(wanted & {_plain(part) for part in path.parent.parts})


def cut_names(name: str, start: str, end: str) -> list[str]:
    """How tools that cut the annotated part out of a video name the file.

    With seconds in six digits (Kinetics), in plain seconds, or in milliseconds; with or without the end.
    """
    try:
        first, last = float(start), float(end)
    except ValueError:
        return []
    return [
        f"{name}_{first:06.0f}_{last:06.0f}",
        f"{name}_{first:g}_{last:g}",
        f"{name}_{1000 * first:.0f}_{1000 * last:.0f}",
        f"{name}_{first:g}",
        f"{name}_{1000 * first:.0f}",
    ]


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").replace("+", " ")
