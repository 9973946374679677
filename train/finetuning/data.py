"""What a fine-tuning run reads: labelled clips to train on and to evaluate, and their classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from train.config.finetuning import FinetuneConfig
from vatt.data import (
    Classes,
    Clip,
    LabelError,
    ManifestError,
    Source,
    find_classes,
    hold_out,
    other_splits,
    read_classes,
    read_clips,
)
from vatt.data.labels import labels_of


@dataclass
class LabelledCorpus:
    """The clips of a run. ``skipped``: records of what the manifest names and does not hold; ``notes``: what a user
    should know of the labels."""

    sources: list[Source]
    held_out: list[Clip]
    classes: Classes
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_labelled(config: FinetuneConfig) -> LabelledCorpus:
    """Reads the data sets, finds or reads the classes, and looks at every label before anything is decoded.

    Raises:
        ManifestError: a data set cannot be used, or has no clip to train on. LabelError: a label that cannot be used.
    """
    sources: list[Source] = []
    held: list[tuple[str, Clip]] = []
    skipped: list[dict[str, Any]] = []
    notes: list[str] = []
    weights = config.data.weights or [1.0] * len(config.data.sources)
    for name, weight in zip(config.data.sources, weights, strict=True):
        found = read_clips(name)
        training, held_out = hold_out(found.clips, config.data.eval_share)
        _check_kinds(name, found.clips, config)
        if not training:
            splits = sorted({str(clip.split) for clip in found.clips})
            raise ManifestError(f"{name}: no clip to train on; column split holds {', '.join(splits)}, wanted: train")
        sources.append(Source(name, training, weight))
        held += [(name, clip) for clip in held_out]
        notes += [f"{name}: {others}"] if (others := other_splits(found.clips)) else []
        skipped += [{"dataset": name, **record} for record in found.skipped]
    multi = config.model.labels == "multi"
    everything = [clip for source in sources for clip in source.clips]
    if config.classes is not None:
        classes = read_classes(config.classes, config.label, multi)
    else:
        classes = find_classes(everything, ", ".join(config.data.sources), config.label, multi)
    if multi and (bare := sum(not labels_of(clip, config.label) for clip in everything)):
        notes.append(f"{bare} of {len(everything)} training clips have no label in column {config.label}: no loss")
    without = set(classes.names)
    for source in sources:
        without &= set(classes.check(source.clips, f"{source.name}, split train"))
    if len(without) == len(classes.names):
        raise LabelError(f"{config.data.sources[0]}, column {config.label}: no training clip has any of the classes")
    notes += _missing("train", without)
    if held:
        names = sorted({name for name, _ in held})
        checks = [set(classes.check([c for n, c in held if n == name], f"{name}, held out")) for name in names]
        notes += _missing("held out", set.intersection(*checks))
    return LabelledCorpus(sources, [clip for _, clip in held], classes, skipped, notes)


def _missing(split: str, names: set[str]) -> list[str]:
    if not names:
        return []
    first = ", ".join(sorted(names)[:5])
    return [f"{len(names)} classes have no clip in the split {split}: {first}{', ...' if len(names) > 5 else ''}"]


def _check_kinds(name: str, clips: list[Clip], config: FinetuneConfig) -> None:
    """Pictures have no sound, and sound files no picture."""
    useless = {"audio": "image", "video": "audio", "image": "audio"}[config.task]
    bad = next((clip for clip in clips if clip.kind == useless), None)
    if bad is not None:
        raise ManifestError(f"{name}, column {useless}: {bad.video}: cannot be used for --task {config.task}")
