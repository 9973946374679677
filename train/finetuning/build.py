"""Builds a fine-tuning run: labelled clips, classes, classifier; the rest is train/core/build.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from train.config.finetuning import FinetuneConfig
from train.config.sections import refuse_for_convolutions
from train.core.build import augment_on, build_trainer, open_run, seed_process
from train.core.changes import check_data_of_run
from train.core.command import Job
from train.core.data import Corpus, read_corpus, sample_manifest
from train.core.loop import Trainer
from train.core.nodes import check_clips
from train.core.ranks import RankContext, gather
from train.finetuning.evaluate import ClassifierEvaluator
from vatt.analysis.flops import classifier_flops
from vatt.clip import InputConfig
from vatt.config import ConfigError
from vatt.data import Classes, ClipLoader, LabelError, LabelledReader, find_classes, read_classes
from vatt.data.decode import planes_capacity
from vatt.data.labels import labels_of
from vatt.data.survey import survey
from vatt.memory import check_room
from vatt.models import Backbone, Classifier
from vatt.objectives.finetuning import Finetuning
from vatt.weights.folder import load_pretrained
from vatt.weights.restore import restore_backbone

# Pictures have no sound, and sound files no picture.
_UNUSABLE = {"audio": "image", "video": "audio", "image": "audio"}


def build(job: Job[FinetuneConfig], context: RankContext) -> Trainer:
    """Everything of a run, on all ranks; rank 0 writes the folder.

    Raises:
        ConfigError, ManifestError, LabelError, PretrainedError, CheckpointError, SampleError: with file and field.
    """
    config = job.config
    refuse_for_convolutions(config.engine, convolutional=config.model.network == "convolutional")
    folder, reporter = open_run(job, f"{'sample-' if job.sample else ''}{config.model.name}", context)
    if job.sample:
        config.data.sources = [sample_manifest(context, reporter.say, pictures=config.task == "image")]
    corpus, classes = _read_labelled(config)
    for line in corpus.splits:
        reporter.say(line)
    check_clips(context, "data.sources", corpus.training_clips())
    check_data_of_run(job, context, folder, reporter, corpus)
    held_out, names = corpus.evaluation_clips(), list(classes.names)
    if job.resume and config.model.classes not in ([], names):
        raise ConfigError(f"--resume: {_changed(config, names)}")
    config.model = replace(config.model, num_classes=len(names), classes=names)
    seed_process(config, context)
    model, origin = _model(config, job.resume and gather(folder.has_checkpoints())[0])
    module = _module(model, config)
    where = augment_on(config, context) if config.model.modality == "video" else "cpu"
    module.planes = planes_capacity(config.model.input.size) if where == "gpu" else 0
    if config.model.modality == "audio" and context.first:
        corpus.notes += silence(corpus, config.model.input)
    first = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return build_trainer(
        job,
        context,
        folder,
        reporter,
        module,
        make_loader=partial(
            ClipLoader,
            corpus.sources,
            LabelledReader(classes, config.model.modality, config.model.input, config.data, where),
            config.data,
        ),
        make_evaluator=lambda engine: ClassifierEvaluator(config, context, folder, engine, reporter, held_out, classes),
        flops_per_sample=classifier_flops(config.model, training=True) * (1 if config.freeze_backbone else 3),
        skipped=corpus.skipped,
        notes=corpus.notes,
        introduction=f"{origin}; {len(names)} classes of column {config.label} ({first}), "
        f"{sum(len(source.clips) for source in corpus.sources)} clips to train on, {len(held_out)} held out",
    )


def _read_labelled(config: FinetuneConfig) -> tuple[Corpus, Classes]:
    """Reads the data sets, finds or reads the classes, and checks every label before anything is decoded.

    Raises:
        ManifestError: a data set cannot be used, or has no clip to train on. LabelError: a label that cannot be used.
    """
    unusable = {_UNUSABLE[config.task]: f"cannot be used for --task {config.task}"}
    corpus = read_corpus(config.data, unusable, config.model.input, sound_only=config.model.modality == "audio")
    multi = config.model.labels == "multi"
    alone = len(corpus.sources) == 1  # the clips of shards need no list of all
    clips = corpus.sources[0].clips if alone else list(corpus.training_clips())
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


def silence(corpus: Corpus, spec: InputConfig) -> list[str]:
    """How many of the clips to train on are silence, among some that are listened to, if any."""
    found = survey({source.name: source.clips for source in corpus.sources}, spec)
    if not found.silent:
        return []
    return [f"{found.silent} of {found.with_sound} clips that were listened to are silence; they are trained on"]


def _missing(split: str, names: set[str]) -> list[str]:
    if not names:
        return []
    first = ", ".join(sorted(names)[:5])
    return [f"{len(names)} classes have no clip in the split {split}: {first}{', ...' if len(names) > 5 else ''}"]


def _changed(config: FinetuneConfig, names: list[str]) -> str:
    """How the classes differ from those that the run began with: its outputs would mean something else."""
    began = config.model.classes
    at = next((at for at, pair in enumerate(zip(began, names, strict=False)) if pair[0] != pair[1]), None)
    how = f"{len(began)} then, {len(names)} now" if at is None else f"number {at} was {began[at]!r}, is {names[at]!r}"
    where = config.classes or ", ".join(config.data.sources)
    return f"the classes of {where}, column {config.label}, are not those that the run began with ({how}); begin anew"


def _model(config: FinetuneConfig, restored: bool) -> tuple[Classifier, str]:
    """The classifier, and in words where its weights come from."""
    try:
        with torch.device("meta"):
            check_room(Classifier.from_config(config.model, config.engine.backend), "model")
        model = Classifier.from_config(config.model, config.engine.backend)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if config.init is None:
        return model, "from scratch"
    if restored:
        return model, f"begun from {config.init}"
    resampled = restore_backbone(model, load_pretrained(config.init, config.engine.backend), config.model.modality)
    tables = f" ({len(resampled)} position tables resampled)" if resampled else ""
    return model, f"backbone from {config.init}{tables}"


def _module(model: Classifier, config: FinetuneConfig) -> Finetuning:
    """The classifier and its loss, with what is trained of it."""
    try:
        module = Finetuning(model, config.targets)
    except ValueError as error:
        raise ConfigError(f"targets.{error}") from error
    try:
        module.check_input()
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
    if isinstance(model.backbone, Backbone):
        model.backbone.encoder.activation_checkpointing = config.engine.activation_checkpointing
    return module
