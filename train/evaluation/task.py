"""What all tasks share: the sample, the clips of a split, and what is said and written of them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.config.finetuning import SAMPLE_LABELS
from train.core.data import evaluation_split, sample_manifest
from train.core.nodes import check_clips
from train.core.ranks import RankContext
from vatt.data import Clip, ManifestError, choose_split, other_splits, read_clips, splits_of
from vatt.data.skipped import ENOUGH, Record, SkipLog
from vatt.data.splits import VAL, nothing_in, records_of, split_name
from vatt.environment import environment
from vatt.weights.folder import held_out_share


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


def clips_of(context: RankContext, options: argparse.Namespace) -> tuple[Sequence[Clip], str, list[Record]]:
    """The clips of the split that ``--split`` names (without it val, or test where there is no val), the name of that
    split, and records of what the data set names and does not hold.

    Raises:
        ManifestError: it cannot be read, or has no clip of this split; the message names those that are there.
    """
    path = options.data
    found = read_clips(path)
    for note in found.notes:
        context.say(f"{path}: {note}")
    share = share_of(options)
    splits = splits_of(found.clips, share)
    if options.split is None:
        split, words = evaluation_split(splits, VAL)
        context.say(f"clips of {path}: {words}")
        if others := other_splits(found.clips):
            context.say(f"warning: {path}: {others}")
        if not (chosen := splits.of(split)):
            raise ManifestError(nothing_in(splits, split, path))
    else:
        split = split_name(options.split)
        chosen = choose_split(found.clips, split, path, share)
    check_clips(context, f"{path}: {split}", chosen)
    return chosen, split, records_of(found.skipped, split)


def share_of(options: argparse.Namespace) -> float:
    """The share of videos that is held out where no split is named: by ``--eval-share``, or as the run of ``--model``
    held them out, or a default."""
    return held_out_share(options.model) if options.eval_share is None else options.eval_share


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
