"""The labelled clips of a run: read, with their classes found and every label checked before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from train.config.finetuning import FinetuneConfig
from train.core.data import Corpus, read_corpus
from vatt.data import Classes, Clip, LabelError, find_classes, read_classes
from vatt.data.caption_words import names_hue, tells_left_from_right
from vatt.data.clips import Clips
from vatt.data.labels import labels_of

# Pictures have no sound, and sound files no picture.
_UNUSABLE = {"audio": "image", "video": "audio", "image": "audio"}
_SHOWN = 5  # classes that a message names


@dataclass(frozen=True)
class Labels:
    """What the labels of the clips to train on are like.

    Attributes:
        counts: clips of each class, by its name.
        several: how many clips have more than one label.
        clips, held_out: clips to train on, and to evaluate on.
        left_right, hues: classes whose names a mirrored picture, or turned hues, would belie.
    """

    counts: Mapping[str, int]
    several: int
    clips: int
    held_out: int
    left_right: tuple[str, ...] = ()
    hues: tuple[str, ...] = ()

    @property
    def rare(self) -> list[str]:
        """Classes with fewer than two clips: there is nothing in common to learn from one."""
        return [name for name, count in self.counts.items() if count < 2]

    def line(self) -> str:
        """In words."""
        least, most = min(self.counts.values()), max(self.counts.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        share = f", the largest in {most / self.clips:.0%}" if self.clips else ""
        return f"{len(self.counts):,} classes of {each} clips{share}"


@dataclass
class Labelled:
    """The clips of a run with their classes."""

    corpus: Corpus
    classes: Classes
    labels: Labels


def read_labelled(config: FinetuneConfig, data: Mapping[str, Clips], find_kind: bool = False) -> Labelled:
    """Holds clips out, finds or reads the classes, and checks every label.

    Args:
        data: see `train.core.data.read_data`.
        find_kind: whether clips have one label or several is to be found; ``config.model.labels`` is set to it.

    Raises:
        ManifestError: a data set cannot be used, or has no clip to train on. LabelError: a label that cannot be used.
    """
    wrong = _UNUSABLE[config.task]
    other = " (pictures are --task image)" if wrong == "image" else " (sound is --task audio)"
    unusable = {wrong: f"cannot be used for --task {config.task}{other}"}
    sound = config.model.modality == "audio"
    corpus = read_corpus(config.data, unusable, config.model.input, sound_only=sound, data=data)
    alone = len(corpus.sources) == 1  # the clips of shards need no list of all
    clips = corpus.sources[0].clips if alone else list(corpus.training_clips())
    several = sum(len(labels_of(clip, config.label)) > 1 for clip in clips)
    if find_kind:
        config.model = replace(config.model, labels="multi" if several else "single")
    multi = config.model.labels == "multi"
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
    return Labelled(corpus, classes, _labels(clips, classes, several, len(corpus.evaluation_clips())))


def _labels(clips: Sequence[Clip], classes: Classes, several: int, held_out: int) -> Labels:
    counts = Counter(label for clip in clips for label in labels_of(clip, classes.column))
    words = {name: name.replace("_", " ").replace("-", " ") for name in classes.names}
    return Labels(
        counts={name: counts[name] for name in classes.names},
        several=several,
        clips=len(clips),
        held_out=held_out,
        left_right=tuple(name for name, text in words.items() if _tells_sides(text)),
        hues=tuple(name for name, text in words.items() if names_hue(text)),
    )


def _tells_sides(name: str) -> bool:
    """Of a class, unlike a sentence, "left" alone is a side."""
    return tells_left_from_right(name) or bool({"left", "right"} & set(name.lower().split()))


def _missing(split: str, names: set[str]) -> list[str]:
    if not names:
        return []
    return [f"classes without a clip ({len(names)}) in the split {split}: {shown(sorted(names))}"]


def shown(names: Sequence[str]) -> str:
    """The first names of a list."""
    return f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
