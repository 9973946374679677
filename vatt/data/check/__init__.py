"""Trying all files of a data set before a job depends on them: a clean manifest, and a list of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vatt.data.check.counts import Counts, count, splits_of
from vatt.data.check.pool import Failed, run_isolated
from vatt.data.check.probe import Job, Probed, probe
from vatt.data.check.rows import CheckedRow, Fault, range_fault, read_rows
from vatt.data.check.writing import write_clean, write_faults
from vatt.data.labels import labels_of
from vatt.data.manifest import ManifestError

__all__ = ["Checked", "Counts", "Fault", "check", "run_isolated", "write_clean", "write_faults"]

_GRACE = 5.0  # seconds beyond its own limit after which a decoding process is ended


@dataclass
class Checked:
    """What came of a data set.

    Attributes:
        rows: those that can be used.
        faults: of the others, {file, field, reason}; a file that several rows name has one.
        counts: of the rows that can be used.
        files: number of files that were tried.
    """

    rows: list[CheckedRow]
    faults: list[Fault]
    counts: Counts
    files: int


def check(
    source: str | Path,
    *,
    workers: int = 2,
    seconds: float = 30.0,
    sound: bool = False,
    column: str = "label",
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Tries every file of a folder or manifest once: it opens, has the stream that its row needs, and a window in its
    middle decodes; the ranges of all rows lie within it; and rows have labels where others of their split do.

    Files are decoded in processes of their own. One that crashes, or is not done ``seconds`` later, is a fault of the
    file that it had.

    Args:
        workers: number of processes.
        sound: whether videos without sound are faults.
        column: of the labels.
        progress: called with (number of files done, number of all files).

    Raises:
        ManifestError: no such folder or manifest, or one that cannot be read at all.
        ValueError: ``workers`` is less than 1.
        RuntimeError: processes cannot be started.
    """
    rows, faults = read_rows(Path(source))
    if not rows and not faults:
        raise ManifestError(f"{source}: holds no video file" if Path(source).is_dir() else f"{source}: has no row")
    jobs = list(dict.fromkeys(Job(row.clip.video, row.clip.kind, sound, seconds) for row in rows))
    probed: dict[tuple[Path, str], Probed] = {}
    for job, result in run_isolated(probe, jobs, workers=workers, seconds=seconds + _GRACE):
        if isinstance(result, Failed):
            result = Probed(field="decode", reason=result.reason)
        probed[job.path, job.kind] = result
        if progress is not None:
            progress(len(probed), len(jobs))
    labelled = {place for row in rows if labels_of(row.clip, column) for place in splits_of(row.clip)}
    good: list[CheckedRow] = []
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        fault = _fault(row, probed[row.clip.video, row.clip.kind], labelled, column)
        if fault is None:
            good.append(row)
        elif (key := (fault["file"], fault["field"], fault["reason"])) not in seen:
            seen.add(key)
            faults.append(fault)
    return Checked(good, faults, count(good, column), len(jobs))


def _fault(row: CheckedRow, probed: Probed, labelled: set[tuple[str, str]], column: str) -> Fault | None:
    file = str(row.clip.video)
    if probed.field is not None:
        return {"file": file, "field": probed.field, "reason": str(probed.reason)}
    narrated = row.values.get("caption") or row.values.get("captions")  # such rows are good for pretraining
    if not labels_of(row.clip, column) and not narrated and labelled & set(splits_of(row.clip)):
        return {"file": file, "field": column, "reason": f"{row.place}: has no label, though others have"}
    if (fault := range_fault(row.clip, probed.duration)) is not None:
        return {**fault, "reason": f"{row.place}: {fault['reason']}"}
    return None
