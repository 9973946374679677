"""What all tasks share: the sample, the clips of a split, and what is said and written of them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.config.finetuning import SAMPLE_LABELS
from train.core.data import sample_manifest
from train.core.nodes import check_clips
from train.core.ranks import RankContext
from vatt.data import Clip, ManifestError, hold_out, other_splits, read_clips
from vatt.data.skipped import ENOUGH, Record, SkipLog
from vatt.environment import environment

HELD_OUT = "held out"


def use_sample(options: argparse.Namespace, context: RankContext) -> None:
    """Puts the manifest of the built-in sample, and the column that the task is about, where none is given."""
    task = options.modality if options.task == "probe" else options.task
    options.data = sample_manifest(context, context.say, pictures=task == "image")
    options.label = options.label or SAMPLE_LABELS.get(task)


def prepare_out(options: argparse.Namespace, context: RankContext) -> None:
    """Makes the folder of ``--out``, and forgets what an earlier run skipped, before anything is computed.

    Raises:
        OSError: on rank 0, nothing can be written there.
    """
    path: Path | None = options.out
    if path is None or not context.first:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".skipped.jsonl").unlink(missing_ok=True)
    path.open("a").close()


def clips_of(context: RankContext, path: str, split: str | None) -> tuple[Sequence[Clip], list[Record]]:
    """The clips of one split of a manifest (None: those held out), and what it names and does not hold.

    Raises:
        ManifestError: it cannot be read, or has no clip of this split; the message names those that are there.
    """
    found = read_clips(path)
    chosen = hold_out(found.clips, 0.0)[1] if split is None else found.of_split(split)
    if split is None and (others := other_splits(found.clips)):
        context.say(f"warning: {path}: {others}")
    if not chosen:
        there = sorted({str(clip.split) for clip in found.clips})
        raise ManifestError(f"{path}, column split: no clip of {split or HELD_OUT!r}; there are {', '.join(there)}")
    check_clips(context, f"{path}: {split or HELD_OUT}", chosen)
    return chosen, found.skipped


def tell_skipped(context: RankContext, options: argparse.Namespace, skipped: Sequence[Record]) -> None:
    """Reports clips that could not be read: on the terminal, and all of them beside ``--out`` (.skipped.jsonl)."""
    if not context.first:
        return
    SkipLog(options.out.with_suffix(".skipped.jsonl") if options.out is not None else None, 1.0).note(skipped)
    for record in skipped[:5]:
        context.say(f"warning: {record['file']}: {record['field']}: {record['reason']}")
    if len(skipped) > 5:
        context.say(f"warning: {len(skipped)} clips could not be read in all")


def tell_missing(context: RankContext, missing: Sequence[Record]) -> None:
    """Warns of clips that the manifest names and that are not there."""
    if missing:
        context.say(f"warning: named by the manifest and not there: {len(missing)}, such as {missing[0]['file']}")


def exit_status(context: RankContext, options: argparse.Namespace, skipped: int, asked: int) -> int:
    """Alike on all ranks: 1 if so many clips could not be read that the figures mean little."""
    if asked < ENOUGH or skipped <= options.max_bad_share * asked:
        return 0
    context.say(
        f"error: {skipped} of {asked} clips could not be read, more than --max-bad-share {options.max_bad_share:g} "
        "allows; the figures above are those of the others"
    )
    return 1


def write(context: RankContext, path: Path | None, content: dict[str, Any]) -> None:
    """Writes the results with what they ran on, and says where; on rank 0."""
    if not context.first or path is None:
        return
    seconds = round(time.monotonic() - context.began, 2)
    facts = {"ranks": context.ranks, "device": context.device.type, "seconds": seconds, "environment": environment()}
    path.write_text(json.dumps({**content, **facts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    context.say(str(path))
