"""Puts a fine-tuning run together: folder, data, model, engine; new, or as a checkpoint left it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from train.config.finetuning import FinetuneConfig
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.loop import Trainer
from train.core.ranks import gather, wait_for_all
from train.core.run_folder import RunFolder
from train.core.sample import sample_manifest
from train.finetuning.cli import FinetuneJob
from train.finetuning.data import LabelledCorpus, read_labelled
from train.finetuning.evaluate import ClassifierEvaluator
from train.pretraining.build import grouped, kernels_of, resume_from
from vatt.analysis.flops import classifier_flops, peak_flops
from vatt.config import ConfigError, to_dict
from vatt.data import ClipLoader, LabelledReader, SkipLog
from vatt.environment import environment
from vatt.models import Classifier, build_classifier
from vatt.objectives.finetuning import Finetuning
from vatt.precision import type_of
from vatt.weights.folder import load_pretrained
from vatt.weights.restore import restore_backbone


@dataclass
class FinetuneRun:
    """A run that is ready to go."""

    config: FinetuneConfig
    folder: RunFolder
    reporter: Reporter
    model: Classifier
    trainer: Trainer
    evaluator: ClassifierEvaluator
    rank: int

    def close(self) -> None:
        self.trainer.loader.close()
        self.trainer.engine.close()
        self.reporter.close()


def assemble(job: FinetuneJob, rank: int, ranks: int, device: torch.device) -> FinetuneRun:
    """Everything of a run, on all ranks; rank 0 writes the folder.

    Raises:
        ConfigError, ManifestError, LabelError, PretrainedError, CheckpointError, SampleError: with file and field.
    """
    config = job.config
    _check_batch(config, ranks)
    kernels = kernels_of(config.engine.kernels, device, type_of(config.engine.precision, device))
    folder: RunFolder | None = None
    if rank == 0:
        name = f"{'sample-' if job.sample else ''}{config.model.name}"
        folder = RunFolder.reopen(job.out) if job.resume and job.out else RunFolder.create(job.out, name)
    folder = RunFolder(gather(folder.path if folder else None)[0])
    reporter = Reporter(folder, rank == 0, config.run.steps)
    if job.sample:
        config.data.sources = [sample_manifest(rank, reporter.say, pictures=config.task == "image")]
    corpus = read_labelled(config)
    names = list(corpus.classes.names)
    if job.resume and config.model.classes not in ([], names):
        raise ConfigError(f"--resume: {_changed(config, names)}")
    config.model = replace(config.model, num_classes=len(names), classes=names)
    if device.type == "cpu":  # a decoding process and a thread on one core would slow each other down
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks - config.data.workers))
    torch.manual_seed(config.run.seed)
    model, origin = _model(config, job.resume)
    shapes = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
    parameters = sum(p.numel() for p in model.parameters())
    try:
        module = Finetuning(model, config.targets)
    except ValueError as error:
        raise ConfigError(f"targets.{error}") from error
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
    model.backbone.encoder.activation_checkpointing = config.engine.activation_checkpointing
    rank_batch = config.run.batch_size // ranks
    engine = Engine(module, config.engine, config.optim, rank_batch, device)
    torch.manual_seed(config.run.seed + 1 + rank)  # dropout differs between ranks
    skips = SkipLog(folder.skipped if rank == 0 else None, config.data.max_bad_share)
    found = resume_from(folder, reporter, engine, shapes, rank) if job.resume else None
    skips.note(corpus.skipped)
    step = found.step if found else 0
    loader = ClipLoader(
        corpus.sources,
        LabelledReader(corpus.classes, config.model.modality, config.model.input, config.data),
        config.data,
        batch_size=rank_batch,
        rank=rank,
        world_size=ranks,
        seed=config.run.seed,
        start_step=step,
    )
    evaluator = ClassifierEvaluator(config, folder, engine, reporter, rank, ranks, corpus.held_out, corpus.classes)
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = peak_flops(device_name)
    trainer = Trainer(
        config=config,
        folder=folder,
        engine=engine,
        loader=loader,
        skips=skips,
        reporter=reporter,
        rank=rank,
        flops_per_sample=classifier_flops(config.model, training=True) * (1 if config.freeze_backbone else 3),
        peak_flops=None if peak is None or engine.dtype != torch.bfloat16 else peak * ranks,
        evaluate=evaluator,
        losses=("loss", "accuracy") if _has_accuracy(config) else ("loss",),
        step=step,
        counts=found.counts if found else {"skipped_steps": 0},
        pending=found.pending if found else {},
    )
    if rank == 0:
        folder.write_json(folder.config, to_dict(config))
        folder.write_json(folder.deepspeed, engine.settings)
        facts = environment() | kernels | {"ranks": str(ranks), "type": str(engine.dtype)}
        folder.write_json(folder.environment, facts)
        origin = f"{parameters / 1e6:.1f} M parameters, {origin}"
        _introduce(config, corpus, reporter, origin, f"{ranks} x {device_name}")
        reporter.say(f"kernels: {', '.join(f'{name} ({ops})' for name, ops in grouped(kernels).items())}")
        if corpus.skipped:
            reporter.warn(f"the data sets: {skips.summary()}")
    wait_for_all()
    return FinetuneRun(config, folder, reporter, model, trainer, evaluator, rank)


def _check_batch(config: FinetuneConfig, ranks: int) -> None:
    parts = ranks * config.engine.gradient_accumulation
    if config.run.batch_size % parts:
        raise ConfigError(
            f"run.batch_size: {config.run.batch_size} clips cannot be shared out to {ranks} ranks x "
            f"{config.engine.gradient_accumulation} parts (engine.gradient_accumulation)"
        )


def _changed(config: FinetuneConfig, names: list[str]) -> str:
    """How the classes differ from those that the run began with: its outputs would mean something else."""
    began = config.model.classes
    at = next((at for at, pair in enumerate(zip(began, names, strict=False)) if pair[0] != pair[1]), None)
    how = f"{len(began)} then, {len(names)} now" if at is None else f"number {at} was {began[at]!r}, is {names[at]!r}"
    where = config.classes or ", ".join(config.data.sources)
    return f"the classes of {where}, column {config.label}, are not those that the run began with ({how}); begin anew"


def _model(config: FinetuneConfig, resume: bool) -> tuple[Classifier, str]:
    """The classifier, and in words where its weights come from."""
    try:
        model = build_classifier(config.model, config.engine.kernels)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if config.init is None:
        return model, "from scratch"
    if resume:
        return model, f"begun from {config.init}"
    resampled = restore_backbone(model, load_pretrained(config.init, config.engine.kernels), config.model.modality)
    tables = f" ({len(resampled)} position tables resampled)" if resampled else ""
    return model, f"backbone from {config.init}{tables}"


def _has_accuracy(config: FinetuneConfig) -> bool:
    return config.model.labels == "single" and not config.targets.mixup


def _introduce(config: FinetuneConfig, corpus: LabelledCorpus, reporter: Reporter, model: str, machine: str) -> None:
    clips = sum(len(source.clips) for source in corpus.sources)
    names = ", ".join(corpus.classes.names[:4]) + (", ..." if len(corpus.classes.names) > 4 else "")
    reporter.say(
        f"{config.model.name}: {model}; {len(corpus.classes.names)} classes of column {config.label} ({names}), "
        f"{clips} clips to train on, {len(corpus.held_out)} held out; {machine}, ZeRO {config.engine.zero}; "
        f"{reporter.folder.path}"
    )
    if config.model.labels == "multi" and config.engine.gradient_accumulation > 1:
        reporter.warn("the loss weighs labels by their counts in each of the engine.gradient_accumulation parts alone")
    for note in corpus.notes:
        reporter.warn(note)
