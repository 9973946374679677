"""Classifiers on held-out clips: video (4 windows x 3 crops), sound (mAP, AUC, d-prime), pictures."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from train.core.ranks import gather, wait_for_all
from train.evaluation.context import HELD_OUT, Place, clips_of, tell_skipped, verdict, write
from train.finetuning.evaluate import in_words
from vatt.config import ConfigError
from vatt.data import Classes, DataConfig, LabelError, Views, read_classes
from vatt.evaluation.classification import Scores, classification_table, per_class, score_clips
from vatt.inference import Classifier
from vatt.weights.folder import PretrainedError

VIEWS = {"video": (4, 3), "audio": (4, 1), "image": (1, 1)}  # windows and crops, as the paper's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--classes", metavar="FILE", help="a class a line, for a model that does not know the names of its classes")


def run(options: argparse.Namespace, place: Place) -> int:
    """Scores the split on all ranks and prints the table on rank 0."""
    if options.task == "audio" and (options.crops or 1) != 1:
        raise ConfigError("--crops: sound has no crops; leave it out")
    model = place.put(Classifier.from_pretrained(options.model), options.precision)
    config = model.config
    assert config is not None
    if (options.task == "audio") != (config.modality == "audio"):
        raise PretrainedError(f"{options.model}: reads {config.modality}; --task {options.task} needs another model")
    classes = _classes(options, list(config.classes), config.labels == "multi", config.num_classes)
    clips, missing = clips_of(place, options.data, options.split)
    where = f"{options.data}, split {options.split or HELD_OUT}"
    if without := classes.check(clips, where):
        place.say(f"warning: {len(without)} classes have no clip in {where}: {', '.join(without[:5])}")
    windows, crops = VIEWS[options.task]
    views = Views(options.clips or windows, options.crops or crops)
    data = DataConfig(workers=options.workers)
    began = time.monotonic()
    own = score_clips(
        model,
        clips,
        views,
        data,
        device=place.device,
        batch_size=options.batch_size,
        numbers=place.share(len(clips)),
    )
    scores = Scores.join(gather(own))
    seconds = time.monotonic() - began
    if len(scores.numbers) + len(scores.skipped) != len(clips):
        raise RuntimeError(f"{len(clips)} clips were asked for, {len(scores.numbers)} scored")
    tell_skipped(place, options, [{"dataset": options.data, **r} for r in scores.skipped])
    table = classification_table(scores, clips, classes)
    table = {**table, "missing": len(missing), "clips_per_s": len(clips) / seconds}
    place.say(f"{options.model}: {in_words(table)}")
    place.say(f"{views.clips} windows x {views.crops} crops, {len(clips) / seconds:.1f} clips/s, {place.in_words}")
    if missing:
        place.say(f"warning: named by the manifest and not there: {len(missing)}, such as {missing[0]['file']}")
    if not classes.multi and place.rank == 0:
        _best_and_worst(place, scores, clips, classes)
    about = {"task": options.task, "model": str(options.model), "data": options.data, "split": options.split}
    about["precision"] = options.precision
    write(place, options.out, {**about, "label": classes.column, "views": asdict(views), "table": table})
    wait_for_all()
    return verdict(place, options, len(scores.skipped), len(clips))


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


def _best_and_worst(place: Place, scores: Scores, clips: list, classes: Classes) -> None:
    found = per_class(scores, clips, classes)
    for name, rows in (("best", found[:3]), ("worst", found[-3:])):
        place.say(f"{name:5}: " + ", ".join(f"{label} {100 * share:.0f}% of {n}" for label, share, n in rows))
