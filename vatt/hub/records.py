"""What a run has written of itself, read for the page of its model: each file with limits, none of them needed.

Paths of data, names of hosts and captions stay where they are: of the sources only their number goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.hub.remote import HubError
from vatt.json_files import JSONError, parse_json, read_bounded, read_json

_MOST = 64 * 2**20  # bytes of a file of records
PLOTS = ("loss.png", "retrieval.png")
_MOST_PLOT = 4 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Records:
    """Of one run; empty is what it did not write.

    Attributes:
        config: all of its settings. data: a line on what it was trained on. train, evaluations: its metrics by step.
        retrieval: "table" and "oracle" of the last evaluation. classification: its table, with "label" and "views".
        environment: versions and devices. plots: names of pictures of curves, with their content.
    """

    config: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    train: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    retrieval: dict[str, Any] = field(default_factory=dict)
    classification: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, bytes] = field(default_factory=dict)


def read_records(run: Path) -> Records:
    """The records in the folder of a run; of any other folder empty ones.

    Raises:
        HubError: a file is there, but cannot be read; the message names it.
    """
    if not (run / "metrics.jsonl").is_file():
        return Records()
    try:
        metrics = _metrics(run / "metrics.jsonl")
        recipe, skipped = _object(run / "recipe.json"), run / "skipped.jsonl"
        return Records(
            config=_object(run / "config.json"),
            data=_without_names(str(recipe.get("data", ""))) + (_skips(skipped) if skipped.is_file() else ""),
            train=[record for record in metrics if record.get("kind") == "train"],
            evaluations=[record for record in metrics if record.get("kind") == "eval"],
            retrieval=_object(run / "retrieval.json"),
            classification=_object(run / "evaluation.json"),
            environment=_object(run / "environment.json"),
            plots={name: png for name in PLOTS if (png := _plot(run / name))},
        )
    except JSONError as error:
        raise HubError(str(error)) from error
    except OSError as error:
        raise HubError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _metrics(path: Path) -> list[dict[str, Any]]:
    """One a kind and step: a step that was done again after a resume replaces the earlier one. A last line without its
    end was cut short."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    lines = read_bounded(path, _MOST).splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        if line.strip():
            record = parse_json(line, f"{path}, line {number}", dict)
            if isinstance(step := record.get("step"), int):
                found[str(record.get("kind")), step] = record
    return [found[key] for key in sorted(found)]


def _object(path: Path) -> dict[str, Any]:
    return read_json(path, dict, most=_MOST, surrogates=True) if path.is_file() else {}


def _without_names(line: str) -> str:
    """`vatt.data.survey.Survey.line` ends with the path of a clip that is broken, if one was found."""
    before, broken, _ = line.partition(" of them broken")
    return before + broken


def _skips(path: Path) -> str:
    count = sum(1 for line in read_bounded(path, _MOST).splitlines() if line.strip())
    return f"; {count:,} could not be read" if count else ""


def _plot(path: Path) -> bytes:
    content = read_bounded(path, _MOST_PLOT) if path.is_file() else b""
    return content if content.startswith(_PNG) else b""
