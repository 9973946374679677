"""What a fine-tuning run reads: labelled clips to train on and to evaluate, and their classes."""

from __future__ import annotations

from train.config.finetuning import FinetuneConfig
from train.core.data import Corpus, read_corpus
from vatt.data import Classes, LabelError, find_classes, read_classes
from vatt.data.labels import labels_of

# Pictures have no sound, and sound files no picture.
_UNUSABLE = {"audio": "image", "video": "audio", "image": "audio"}


def read_labelled(config: FinetuneConfig) -> tuple[Corpus, Classes]:
    """Reads the data sets, finds or reads the classes, and looks at every label before anything is decoded.

    Raises:
        ManifestError: a data set cannot be used, or has no clip to train on. LabelError: a label that cannot be used.
    """
    corpus = read_corpus(config.data, {_UNUSABLE[config.task]: f"cannot be used for --task {config.task}"})
    multi = config.model.labels == "multi"
    clips = list(corpus.training_clips())
    if config.classes is not None:
        classes = read_classes(config.classes, config.label, multi)
    else:
        classes = find_classes(clips, ", ".join(config.data.sources), config.label, multi)
    if multi and (bare := sum(not labels_of(clip, config.label) for clip in clips)):
        corpus.notes.append(f"{bare} of {len(clips)} training clips have no label in column {config.label}: no loss")
    without = set(classes.names)
    for source in corpus.sources:
        without &= set(classes.check(source.clips, f"{source.name}, split train"))
    if len(without) == len(classes.names):
        raise LabelError(f"{config.data.sources[0]}, column {config.label}: no training clip has any of the classes")
    corpus.notes += _missing("train", without)
    held_out = {name: clips for name, clips in sorted(corpus.held_out.items()) if clips}
    if held_out:
        checks = [set(classes.check(clips, f"{name}, held out")) for name, clips in held_out.items()]
        corpus.notes += _missing("held out", set.intersection(*checks))
    return corpus, classes


def _missing(split: str, names: set[str]) -> list[str]:
    if not names:
        return []
    first = ", ".join(sorted(names)[:5])
    return [f"{len(names)} classes have no clip in the split {split}: {first}{', ...' if len(names) > 5 else ''}"]
