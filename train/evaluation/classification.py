"""Classifiers on held-out clips: video (4 windows x 3 crops), sound (mAP, AUC, d-prime), pictures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict

from train.core.ranks import RankContext, gather, wait_for_all
from train.evaluation.task import clips_of, exit_status, tell_missing, tell_skipped, write
from vatt import models, signals
from vatt.config import ConfigError
from vatt.data import Classes, Clip, DataConfig, LabelError, Views, read_classes
from vatt.evaluation.classification import Scores, Table, classification_table, per_class, score_clips
from vatt.inference import Classifier
from vatt.weights.folder import PretrainedError

VIEWS = {"video": (4, 3), "audio": (4, 1), "image": (1, 1)}  # windows and crops, as the paper's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--classes", metavar="FILE", help="one class per line, for a model that does not know the names of its classes")


def run(options: argparse.Namespace, context: RankContext) -> int:
    """Scores the split on all ranks and prints the table on rank 0."""
    if options.task == "audio" and (options.crops or 1) != 1:
        raise ConfigError("--crops: sound has no crops; leave it out")
    model = context.to_device(Classifier.from_pretrained(options.model), options.precision)
    config = model.config
    assert config is not None
    if (options.task == "audio") != (config.modality == "audio"):
        raise PretrainedError(f"{options.model}: reads {config.modality}; --task {options.task} needs another model")
    classes = _classes(options, list(config.classes), config.labels == "multi", config.num_classes)
    clips, split, missing = clips_of(context, options)
    where = f"{options.data}, split {split}"
    if without := classes.check(clips, where):
        context.say(f"warning: classes without a clip ({len(without)}) in {where}: {', '.join(without[:5])}")
    windows, crops = VIEWS[options.task]
    views = Views(options.clips or windows, options.crops or crops)
    data = DataConfig(workers=options.workers)
    began = time.monotonic()
    scores = score_on_all_ranks(model, clips, views, data, context, options.batch_size)
    seconds = time.monotonic() - began
    tell_skipped(context, options, [{"dataset": options.data, **r} for r in scores.skipped])
    table = classification_table(scores, clips, classes)
    table = {**table, "missing": len(missing), "clips_per_s": len(clips) / seconds}
    context.say(f"{options.model}: {describe_table(table)}")
    context.say(f"{views.clips} windows x {views.crops} crops, {len(clips) / seconds:.1f} clips/s, {context}")
    tell_missing(context, missing)
    if not classes.multi and context.first:
        _best_and_worst(context, scores, clips, classes)
    about = {"task": options.task, "model": str(options.model), "data": options.data, "split": split}
    about["precision"] = options.precision
    write(context, options.out, {**about, "label": classes.column, "views": asdict(views), "table": table})
    wait_for_all()
    return exit_status(context, options, len(scores.skipped), len(clips))


def _classes(options: argparse.Namespace, known: list[str], multi: bool, count: int) -> Classes:
    """The classes of the model by name; another order of a label file changes nothing."""
    column = options.label or "label"
    if known:
        if options.classes is not None:
            given = read_classes(options.classes, column, multi)
            if set(given.names) != set(known):
                odd = sorted(set(given.names) ^ set(known))
                raise LabelError(f"{options.classes}: differs from the classes of the model: {', '.join(odd[:5])}")
        return Classes(tuple(known), multi, column)
    if options.classes is None:
        raise LabelError(f"{options.model}: the model does not name its {count} classes; give them by --classes FILE")
    given = read_classes(options.classes, column, multi)
    if len(given.names) != count:
        raise LabelError(f"{options.classes}: names {len(given.names)} classes, the model has {count}")
    return given


def _best_and_worst(context: RankContext, scores: Scores, clips: Sequence[Clip], classes: Classes) -> None:
    found = per_class(scores, clips, classes)
    for name, rows in (("best", found[:3]), ("worst", found[-3:])):
        context.say(f"{name:5}: " + ", ".join(f"{label} {100 * share:.0f}% of {n}" for label, share, n in rows))


def score_on_all_ranks(
    model: models.Classifier,
    clips: Sequence[Clip],
    views: Views,
    data: DataConfig,
    context: RankContext,
    batch_size: int,
) -> Scores:
    """The scores of all clips, each scored on one rank. All ranks must call, and all get the whole.

    Raises:
        SignalInterrupt: on all ranks, a signal told one of them to end.
    """
    own: Scores | int
    try:
        with signals.may_interrupt():
            own = score_clips(
                model,
                clips,
                views,
                data,
                device=context.device,
                batch_size=batch_size,
                numbers=context.shard(len(clips)),
            )
    except signals.SignalInterrupt as stopped:  # the others will wait for this rank
        own = stopped.number
    parts: list[Scores | int] = gather(own)
    for part in parts:
        if isinstance(part, int):
            raise signals.SignalInterrupt(part)
    scores = Scores.join([part for part in parts if not isinstance(part, int)])
    if len(scores.numbers) + len(scores.skipped) != len(clips):
        raise RuntimeError(f"{len(clips)} clips were asked for, {len(scores.numbers)} scored")
    return scores


def describe_table(table: Table) -> str:
    """The figures of a table in one line."""
    skipped = f", {table['skipped']} could not be read" if table["skipped"] else ""
    clips = f"{table['n']} clips{skipped}"
    if "top1" in table:
        figures = f"top-1 {100 * table['top1']:.1f}%, top-5 {100 * table['top5']:.1f}%"
        return f"{figures} (largest class {100 * table['chance']:.1f}%), {table['classes']} classes, {clips}"
    left = f", {len(table['left_out'])} left out" if table["left_out"] else ""
    d_prime = "n/a" if table["d-prime"] is None else f"{table['d-prime']:.3f}"
    if table["infinite"]:
        d_prime += f" without {len(table['infinite'])} classes of AUC 0 or 1"
    figures = f"mAP {100 * table['mAP']:.1f}%, AUC {table['AUC']:.3f}, d-prime {d_prime}"
    return f"{figures}, {table['classes']} classes{left}, {clips}"
