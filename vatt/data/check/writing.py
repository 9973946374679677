"""The clean manifest and the list of faults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vatt.data.check.rows import CheckedRow, Fault
from vatt.data.datasets import write_lines, write_manifest
from vatt.data.manifest import MEDIA, ManifestError
from vatt.files import json_line


def write_clean(rows: Sequence[CheckedRow], source: Path, out: Path) -> None:
    """Writes rows as a manifest (.jsonl) with the columns that they have; paths are valid from its new place.

    Raises:
        ManifestError: there is no row, ``out`` is the manifest that was checked, or it cannot be written.
    """
    if out.resolve() == source.resolve():
        raise ManifestError(f"{out}: is the manifest that is checked; choose another name for the clean one")
    write_manifest([_moved(row.values, source, out) for row in rows], out)


def write_faults(faults: Sequence[Fault], out: Path) -> None:
    """Writes a line {file, field, reason} for each fault. Raises ManifestError if the file cannot be written."""
    write_lines(out, (json_line(fault) for fault in faults))


def _moved(values: dict[str, Any], source: Path, out: Path) -> dict[str, Any]:
    """The row with its path relative to ``out``; a path that a manifest has as an absolute one stays as it is."""
    changed = dict(values)
    for column in MEDIA:
        name = str(values.get(column) or "").strip()
        if name and (source.is_dir() or not Path(name).is_absolute()):
            changed[column] = os.path.relpath(source.parent.resolve() / name, out.parent.resolve())
    return changed
