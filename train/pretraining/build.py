"""Builds a pretraining run: data sets, tokenizer, model; the rest is train/core/build.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from train.config.pretraining import PretrainConfig
from train.config.sections import refuse_for_convolutions
from train.core.build import augment_on, build_trainer, open_run, seed_process
from train.core.changes import check_data_of_run
from train.core.command import Job
from train.core.data import LARGE, SAMPLE, Corpus, read_corpus
from train.core.loop import Trainer
from train.core.nodes import check_clips
from train.core.ranks import RankContext, wait_for_all
from train.core.run_folder import RunFolder
from train.pretraining.evaluate import RetrievalEvaluator
from train.pretraining.start import prepare
from vatt.analysis.flops import train_flops_per_sample
from vatt.config import ConfigError
from vatt.data import DataConfig, Tokenizer, TrainLoader, load_word_embeddings
from vatt.data.clips import count_captioned
from vatt.data.decode import planes_capacity
from vatt.memory import check_room
from vatt.models.text import WordEmbedding
from vatt.objectives.pretraining import Pretraining
from vatt.sample import levels

_VIDEOS_ONLY = "pretraining reads videos (column video)"


def build(job: Job[PretrainConfig], context: RankContext) -> Trainer:
    """Everything of a run, on all ranks; rank 0 writes the folder, and the others read what it wrote.

    Raises:
        ConfigError, ManifestError, TextError, SampleError, CheckpointError: with the file and the field.
    """
    if job.auto and context.first:  # looking at clips takes a while
        RunFolder.check_new(job.out, job.restart)
    start = prepare(job, context) if job.auto else None
    config = job.config
    _check(config)
    name = "sample" if job.sample else config.model.name
    folder, reporter = open_run(job, name, context, part_size=2)  # a contrastive loss of one clip has no negatives
    start = start or prepare(job, context)
    of_sample = config.data.sources in [[str(folder / "manifest.csv")] for folder in (SAMPLE, LARGE)]
    oracle = dict(levels(config.data.sources[0])) if of_sample else None
    unusable = dict.fromkeys(("audio", "image"), _VIDEOS_ONLY)
    corpus = read_corpus(config.data, unusable, config.model.input, data=start.data)
    start.tell(job, reporter)
    for line in corpus.splits:
        reporter.say(line)
    check_clips(context, "data.sources", corpus.training_clips())
    held_out = corpus.evaluation_clips()
    if context.first and not job.resume:
        _tokenizer(config.data, corpus).save(folder.path)
        start.keep(folder)
    wait_for_all()
    check_data_of_run(job, context, folder, reporter, corpus, config.data.vocabulary)
    tokenizer = Tokenizer.load(folder.path)
    config.model.text.vocab_size = config.model.unified.txt_vocab_size = tokenizer.vocab_size
    seed_process(config, context)
    module = _module(config)
    where = augment_on(config, context)
    module.planes = planes_capacity(config.model.input.size) if where == "gpu" else 0
    clips = sum(len(source.clips) for source in corpus.sources)
    captioned = sum(count_captioned(source.clips) for source in corpus.sources)
    return build_trainer(
        job,
        context,
        folder,
        reporter,
        module,
        make_loader=partial(TrainLoader, corpus.sources, tokenizer, config.model.input, config.data, augment_on=where),
        make_evaluator=lambda engine: RetrievalEvaluator(
            config, context, folder, engine, reporter, held_out, tokenizer, oracle
        ),
        flops_per_sample=train_flops_per_sample(config.model),
        skipped=corpus.skipped,
        notes=corpus.notes,
        introduction=f"{clips} clips to train on ({captioned} with captions), {len(held_out)} held out, "
        f"{tokenizer.vocab_size} words",
    )


def _tokenizer(config: DataConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer of the vocabulary file, or one learned from the captions. Raises TextError for a bad file."""
    if config.vocabulary is not None:
        return Tokenizer.from_file(config.vocabulary)
    return Tokenizer.train(_captions(corpus), config.vocabulary_size)


def _captions(corpus: Corpus) -> Iterator[str]:
    """All sentences to train on, those of one video once."""
    for source in corpus.sources:
        seen: set[Path] = set()
        for clip in source.clips:
            if clip.video not in seen:
                seen.add(clip.video)
                yield from (caption.text for caption in clip.captions)


def _check(config: PretrainConfig) -> None:
    """Raises ConfigError: sections of the model do not fit together, or the engine cannot do what is asked with this
    one. Before a folder is made, and memory counted."""
    refuse_for_convolutions(config.engine, convolutional=config.model.backbone == "convolutional")
    try:
        with torch.device("meta"):
            module = Pretraining(config.model, config.engine.backend)
        module.check_input()
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    check_room(module, "model")


def _module(config: PretrainConfig) -> Pretraining:
    """The models and their loss.

    Raises:
        ConfigError: sections that do not fit together. TextError: a table of word embeddings that cannot be used.
    """
    try:
        module = Pretraining(config.model, config.engine.backend)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    module.vatt.activation_checkpointing = config.engine.activation_checkpointing
    if config.data.word_embeddings is not None:
        table = next(part for part in module.modules() if isinstance(part, WordEmbedding)).weight
        rows, width = table.shape
        values = load_word_embeddings(str(config.data.word_embeddings), rows, width)
        with torch.no_grad():
            table.copy_(torch.from_numpy(values))
    return module
