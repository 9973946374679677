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

from train.core.sample import LABELS, sample_manifest
from vatt.data import Clip, ManifestError, hold_out, other_splits, read_clips
from vatt.data.skipped import ENOUGH, SkipLog
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


def prepare_out(options: argparse.Namespace, place: Place) -> None:
    """Makes the folder of ``--out``, and forgets what an earlier run skipped, before anything is computed.

    Raises:
        OSError: on rank 0, nothing can be written there.
    """
    path: Path | None = options.out
    if path is None or place.rank:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".skipped.jsonl").unlink(missing_ok=True)
    path.open("a").close()


def clips_of(place: Place, path: str, split: str | None) -> tuple[list[Clip], list[dict[str, Any]]]:
    """The clips of one split of a manifest (None: those held out), and what it names and does not hold.

    Raises:
        ManifestError: it cannot be read, or has no clip of this split; the message names those that are there.
    """
    found = read_clips(path)
    chosen = hold_out(found.clips, 0.0)[1] if split is None else found.of_split(split)
    if split is None and (others := other_splits(found.clips)):
        place.say(f"warning: {path}: {others}")
    if not chosen:
        there = sorted({str(clip.split) for clip in found.clips})
        raise ManifestError(f"{path}, column split: no clip of {split or HELD_OUT!r}; there are {', '.join(there)}")
    return chosen, found.skipped


def tell_skipped(place: Place, options: argparse.Namespace, skipped: Sequence[dict[str, Any]]) -> None:
    """Reports clips that could not be read: on the terminal, and all of them beside ``--out`` (.skipped.jsonl)."""
    if place.rank != 0:
        return
    SkipLog(options.out.with_suffix(".skipped.jsonl") if options.out is not None else None, 1.0).note(skipped)
    for record in skipped[:5]:
        place.say(f"warning: {record['file']}: {record['field']}: {record['reason']}")
    if len(skipped) > 5:
        place.say(f"warning: {len(skipped)} clips could not be read in all")


def verdict(place: Place, options: argparse.Namespace, skipped: int, asked: int) -> int:
    """The exit status, alike on all ranks: 1 if so many clips could not be read that the figures mean little."""
    if asked < ENOUGH or skipped <= options.max_bad_share * asked:
        return 0
    place.say(
        f"error: {skipped} of {asked} clips could not be read, more than --max-bad-share {options.max_bad_share:g} "
        "allows; the figures above are those of the others"
    )
    return 1


def write(place: Place, path: Path | None, content: dict[str, Any]) -> None:
    """Writes the results with what they ran on, and says where; on rank 0."""
    if place.rank != 0 or path is None:
        return
    seconds = round(time.monotonic() - place.began, 2)
    facts = {"ranks": place.ranks, "device": place.device.type, "seconds": seconds, "environment": environment()}
    path.write_text(json.dumps({**content, **facts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    place.say(str(path))
