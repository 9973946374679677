"""Reads the files of a run folder again, for its plots and its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.core.run_folder import RunFolder
from vatt.errors import UserError
from vatt.json_files import JSONError, parse_json

Record = dict[str, Any]

_NEEDED = {
    "train": ("loss", "samples_per_s", "tflops", "mfu", "data_wait", "memory_gb", "skipped_steps", "time"),
    "eval": ("chance",),
}
_RESULTS = ("table", "oracle", "queries")


class RecordError(UserError, ValueError):
    """A run folder, or a file in it, that cannot be read. The message names it and the line."""


@dataclass
class Metrics:
    """The lines of metrics.jsonl by kind, in the order of their steps."""

    train: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)


@dataclass
class Run:
    """What a run left in its folder. ``results``, ``environment`` and ``recipe`` are empty where the run did not write
    them."""

    folder: RunFolder
    config: Record
    metrics: Metrics
    results: Record
    environment: dict[str, str]
    skipped: list[Record]
    recipe: Record = field(default_factory=dict)


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        RecordError: no such folder, no configuration or metrics in it, or a file that is not as a run writes it.
    """
    if not path.is_dir():
        raise RecordError(f"{path}: no such run folder")
    folder = RunFolder(path)
    return Run(
        folder,
        _object(folder.config),
        read_metrics(folder.metrics),
        _object(folder.retrieval, _RESULTS) if folder.retrieval.exists() else {},
        _object(folder.environment) if folder.environment.exists() else {},
        _lines(folder.skipped) if folder.skipped.exists() else [],
        _object(folder.recipe, ("data", "choices")) if folder.recipe.exists() else {},
    )


def read_metrics(path: Path) -> Metrics:
    """Reads metrics.jsonl. A record of a step that was done again after a resume replaces the earlier one.

    Raises:
        RecordError: the file is missing, has no training record, or a line that cannot be read.
    """
    kinds: dict[str, dict[int, Record]] = {"train": {}, "eval": {}}
    for number, record in enumerate(_lines(path), start=1):
        kind, step = record.get("kind"), record.get("step")
        if kind not in kinds or not isinstance(step, int):
            raise RecordError(
                f"{path}, record {number}: needs kind (train or eval) and step, got {kind!r} and {step!r}"
            )
        if missing := [name for name in _NEEDED[kind] if name not in record]:
            raise RecordError(f"{path}, record {number}: has no {', '.join(missing)}")
        kinds[kind][step] = record
    if not kinds["train"]:
        raise RecordError(f"{path}: holds no training record")
    train, evaluations = ([records[step] for step in sorted(records)] for records in kinds.values())
    return Metrics(train, evaluations)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; is {path.parent} the folder of a run?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from error


def _object(path: Path, needed: tuple[str, ...] = ()) -> Record:
    content = _parsed(_read(path), str(path))
    if missing := [name for name in needed if name not in content]:
        raise RecordError(f"{path}: has no {', '.join(missing)}")
    return content


def _lines(path: Path) -> list[Record]:
    """One object a line. A last line without its end was cut short by an interruption, and is left out."""
    text = _read(path)
    found = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.strip():
            continue
        try:
            found.append(_parsed(line, f"{path}, line {number}"))
        except RecordError:
            if line.endswith("\n"):
                raise
    return found


def _parsed(text: str, where: str) -> Record:
    try:
        record: Record = parse_json(text, where, dict, surrogates=True, constant=float)  # a loss may be NaN
    except JSONError as error:
        raise RecordError(str(error)) from error
    return record
