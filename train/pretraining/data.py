"""What a run reads: its data sets, its held-out clips and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data import Clip, ManifestError, Source, Tokenizer, hold_out, other_splits, read_clips
from vatt.data.config import DataConfig
from vatt.models.config import VATTConfig


@dataclass
class Corpus:
    """The clips of a run. ``skipped`` are records of what the data sets name but do not hold."""

    sources: list[Source]
    held_out: list[Clip]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a user should know of the data sets

    def captions(self) -> Iterable[str]:
        """All sentences to train on, those of one video once."""
        for source in self.sources:
            seen: set[Path] = set()
            for clip in source.clips:
                if clip.video not in seen:
                    seen.add(clip.video)
                    yield from (caption.text for caption in clip.captions)


def read_corpus(config: DataConfig) -> Corpus:
    """Reads all data sets and holds clips out for evaluation.

    Raises:
        ManifestError: a data set cannot be used or has no clip to train on; names the file and the place.
    """
    corpus = Corpus([], [])
    weights = config.weights or [1.0] * len(config.sources)
    for name, weight in zip(config.sources, weights, strict=True):
        found = read_clips(name)
        if other := next((clip for clip in found.clips if clip.kind != "video"), None):
            raise ManifestError(f"{name}, column {other.kind}: {other.video}: pretraining reads videos (column video)")
        training, held_out = hold_out(found.clips, config.eval_share)
        if not training:
            splits = sorted({str(clip.split) for clip in found.clips})
            raise ManifestError(f"{name}: no clip to train on; column split holds {', '.join(splits)}, wanted: train")
        corpus.sources.append(Source(name, training, weight))
        corpus.held_out += held_out
        corpus.notes += [f"{name}: {others}"] if (others := other_splits(found.clips)) else []
        corpus.skipped += [{"dataset": name, **record} for record in found.skipped]
    return corpus


def make_tokenizer(config: DataConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer of the vocabulary file, or one learned from the captions. Raises TextError for a bad file."""
    if config.vocabulary is not None:
        return Tokenizer.from_file(config.vocabulary)
    return Tokenizer.train(corpus.captions(), config.vocabulary_size)


def fit_vocabulary(config: VATTConfig, tokenizer: Tokenizer) -> None:
    """Gives the text part of the model as many rows as the tokenizer has words."""
    config.text.vocab_size = config.unified.txt_vocab_size = tokenizer.vocab_size
