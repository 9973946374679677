"""Where a task runs, and what all tasks share."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from train.sample import LABELS, sample_manifest
from vatt.data import Clip, DataConfig, ManifestError, hold_out, read_clips
from vatt.data.skipped import SkipLog
from vatt.environment import environment
from vatt.precision import type_of

HELD_OUT = "held out"
Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Place:
    """This rank, its device, and when the task began."""

    rank: int
    ranks: int
    device: torch.device
    began: float = field(default_factory=time.monotonic)

    @property
    def in_words(self) -> str:
        return "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"

    def say(self, text: str) -> None:
        """A line for people, on rank 0."""
        if self.rank == 0:
            print(text, flush=True)

    def put(self, model: Model, precision: str) -> Model:
        """The model on the device of this rank, in the type of ``--precision``."""
        return model.to(self.device, type_of(precision, self.device))

    def share(self, count: int) -> range:
        """The numbers of this rank among ``count``: each number belongs to one rank."""
        return range(self.rank, count, self.ranks)


def use_sample(options: argparse.Namespace, place: Place) -> None:
    """Puts the manifest of the built-in sample, and the column that the task is about, where none is given."""
    task = options.modality if options.task == "probe" else options.task
    options.data = sample_manifest(place.rank, place.say, pictures=task == "image")
    options.label = options.label or LABELS.get(task)


def clips_of(path: str, split: str | None) -> tuple[list[Clip], list[dict[str, Any]]]:
    """The clips of one split of a manifest (None: those held out), and what it names and does not hold.

    Raises:
        ManifestError: it cannot be read, or has no clip of this split; the message names those that are there.
    """
    found = read_clips(path)
    chosen = hold_out(found.clips, 0.0)[1] if split is None else found.of_split(split)
    if not chosen:
        there = sorted({str(clip.split) for clip in found.clips})
        raise ManifestError(f"{path}, column split: no clip of {split or HELD_OUT!r}; there are {', '.join(there)}")
    return chosen, found.skipped


def tell_skipped(
    place: Place, path: Path | None, skipped: Sequence[dict[str, Any]], asked: int, config: DataConfig
) -> None:
    """Reports clips that could not be read: on the terminal, and all of them in ``path`` (.skipped.jsonl beside it).

    Raises:
        TooManyBadClips: more than ``data.max_bad_share`` of those asked for.
    """
    if place.rank != 0:
        return
    log = SkipLog(path.with_suffix(".skipped.jsonl") if path is not None and skipped else None, config.max_bad_share)
    for record in skipped[:5]:
        place.say(f"warning: {record['file']}: {record['field']}: {record['reason']}")
    if len(skipped) > 5:
        place.say(f"warning: {len(skipped)} clips could not be read in all")
    log.add(asked - len(skipped), skipped)


def write(place: Place, path: Path | None, content: dict[str, Any]) -> None:
    """Writes the results with what they ran on, and says where; on rank 0."""
    if place.rank != 0 or path is None:
        return
    seconds = round(time.monotonic() - place.began, 2)
    facts = {"ranks": place.ranks, "device": place.device.type, "seconds": seconds, "environment": environment()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **facts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    place.say(str(path))
