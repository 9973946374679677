"""Builds a fine-tuning run: labelled clips, classes, classifier; the rest is train/core/build.py."""

from __future__ import annotations

from functools import partial

import torch

from train.config.finetuning import FinetuneConfig
from train.config.sections import refuse_for_convolutions
from train.core.build import augment_on, build_trainer, open_run, seed_process
from train.core.changes import check_data_of_run
from train.core.command import Job
from train.core.data import Corpus
from train.core.loop import Trainer
from train.core.nodes import check_clips
from train.core.ranks import RankContext, gather
from train.core.run_folder import RunFolder
from train.finetuning.evaluate import ClassifierEvaluator
from train.finetuning.expected import training_flops
from train.finetuning.start import prepare
from vatt.clip import InputConfig
from vatt.config import ConfigError
from vatt.data import ClipLoader, LabelledReader
from vatt.data.decode import planes_capacity
from vatt.data.survey import Survey, survey
from vatt.memory import check_room
from vatt.models import Backbone, Classifier
from vatt.objectives.finetuning import Finetuning
from vatt.weights.folder import load_pretrained
from vatt.weights.restore import restore_backbone


def build(job: Job[FinetuneConfig], context: RankContext) -> Trainer:
    """Everything of a run, on all ranks; rank 0 writes the folder.

    Raises:
        ConfigError, ManifestError, LabelError, PretrainedError, CheckpointError, SampleError: with file and field.
    """
    if job.auto and context.first:  # looking at clips takes a while
        RunFolder.check_new(job.out, job.restart)
    start = prepare(job, context) if job.auto else None
    config = job.config
    refuse_for_convolutions(config.engine, convolutional=config.model.network == "convolutional")
    folder, reporter = open_run(job, f"{'sample-' if job.sample else ''}{config.model.name}", context)
    start = start or prepare(job, context)
    corpus, classes = start.labelled.corpus, start.labelled.classes
    start.tell(job, reporter)
    for line in corpus.splits:
        reporter.say(line)
    check_clips(context, "data.sources", corpus.training_clips())
    if context.first and not job.resume:
        start.keep(folder)
    check_data_of_run(job, context, folder, reporter, corpus)
    held_out, names = corpus.evaluation_clips(), list(classes.names)
    seed_process(config, context)
    model, origin = _model(config, job.resume and gather(folder.has_checkpoints())[0])
    module = _module(model, config)
    where = augment_on(config, context) if config.model.modality == "video" else "cpu"
    module.planes = planes_capacity(config.model.input.size) if where == "gpu" else 0
    if config.model.modality == "audio" and context.first:
        corpus.notes += silence(corpus, config.model.input, start.facts.survey if job.auto and start.facts else None)
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
        flops_per_sample=training_flops(config),
        skipped=corpus.skipped,
        notes=corpus.notes,
        introduction=f"{origin}; {len(names)} classes of column {config.label} ({first}), "
        f"{sum(len(source.clips) for source in corpus.sources)} clips to train on, {len(held_out)} held out",
    )


def silence(corpus: Corpus, spec: InputConfig, found: Survey | None = None) -> list[str]:
    """How many of the clips to train on are silence, among some that are listened to, if any. ``found``: of a survey
    that was made already."""
    found = found or survey({source.name: source.clips for source in corpus.sources}, spec)
    if not found.silent:
        return []
    return [f"{found.silent} of {found.with_sound} clips that were listened to are silence; they are trained on"]


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
