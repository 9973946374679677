"""What an adapter returns, and writing it as a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt import files
from vatt.data.captions import Narration
from vatt.data.labels import SEPARATOR
from vatt.data.manifest import ManifestError
from vatt.files import json_line

Row = dict[str, Any]
_SHOWN = 5

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
class Adapted:
    """What an annotation file gave.

    Attributes:
        rows: of the manifest.
        missing: names of annotated files that are not in the folder, each once.
        left_out: entries that cannot be used, with reasons.
        notes: what else a person should know.
    """

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Counts, the first missing names, and the first reasons, for people."""
        text = f"{len(self.rows)} rows; {len(self.missing)} files missing; {len(self.left_out)} entries left out"
        if self.missing:
            more = ", ..." if len(self.missing) > _SHOWN else ""
            text += f"\n  missing: {', '.join(self.missing[:_SHOWN])}{more}"
        text += "".join(f"\n  left out: {reason}" for reason in self.left_out[:_SHOWN])
        return text + "".join(f"\n  note: {note}" for note in self.notes)


def split_of(text: str, where: str) -> str:
    """train, val or test. Raises ManifestError for another name; ``where`` begins the message."""
    if (split := SPLITS.get(text.strip().lower())) is None:
        raise ManifestError(f"{where}: the split {text!r} is not known; known are {', '.join(SPLITS)}")
    return split


def label_of(text: str, where: str) -> str:
    """A label without spaces around it. Raises ManifestError if it is empty or has the bar that separates labels."""
    label = text.strip()
    if not label:
        raise ManifestError(f"{where}: the label is empty")
    if SEPARATOR in label:
        raise ManifestError(f"{where}: the label {label!r} has a {SEPARATOR!r}, which separates labels in a manifest")
    return label


def known(label: str, names: Mapping[str, Any] | Iterable[str], where: str, source: Path) -> str:
    """The label again. Raises ManifestError if the class list read from ``source`` does not have it."""
    if label not in names:
        raise ManifestError(f"{where}: the label {label!r} is not in {source}")
    return label


def write_manifest(rows: list[Row], out: Path) -> None:
    """Writes rows as a .jsonl manifest, atomically. Raises ManifestError if there is none, or it cannot be written."""
    if not rows:
        raise ManifestError(f"{out}: no row to write: not one annotated file is in the folder")
    if out.suffix != ".jsonl":
        raise ManifestError(f"{out}: the manifest must end in .jsonl")
    write_lines(out, (json_line(row, default=Narration.columns) for row in rows))


def write_lines(out: Path, lines: Iterable[str]) -> None:
    """Writes a text file, atomically. Raises ManifestError, naming the file, if that fails."""
    try:
        files.write_lines(out, lines)
    except (OSError, UnicodeEncodeError) as error:
        raise ManifestError(f"{out}: cannot be written: {error}") from error
