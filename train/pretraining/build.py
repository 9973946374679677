"""Puts a run together: folder, data, tokenizer, model, engine; new, or as a checkpoint left it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from train.config.pretraining import PretrainConfig
from train.core.checkpoint import Checkpoint, CheckpointError, check_fits, load_latest, set_random_state
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.loop import Trainer
from train.core.ranks import gather, wait_for_all
from train.core.run_folder import RunFolder
from train.core.sample import SAMPLE, sample_manifest
from train.pretraining.cli import Job
from train.pretraining.data import Corpus, fit_vocabulary, make_tokenizer, read_corpus
from train.pretraining.evaluate import Evaluator
from vatt.analysis.flops import peak_flops, train_flops_per_sample
from vatt.config import ConfigError, to_dict
from vatt.data import SkipLog, Tokenizer, TrainLoader, load_word_embeddings
from vatt.environment import environment
from vatt.kernels import BackendError, Call, operations, pick
from vatt.models.text import WordEmbedding
from vatt.objectives.pretraining import Pretraining
from vatt.precision import type_of
from vatt.sample import levels


@dataclass
class Prepared:
    """What is known before a model exists."""

    config: PretrainConfig
    folder: RunFolder
    corpus: Corpus
    tokenizer: Tokenizer
    reporter: Reporter
    oracle: dict[str, Any] | None
    kernels: dict[str, str]
    resume: bool


@dataclass
class Assembled:
    """A run that is ready to go."""

    prepared: Prepared
    trainer: Trainer
    evaluator: Evaluator
    rank: int

    def close(self) -> None:
        self.trainer.loader.close()
        self.trainer.engine.close()
        self.prepared.reporter.close()


def prepare(job: Job, rank: int, ranks: int, device: torch.device) -> Prepared:
    """Folder, sample, data sets and tokenizer. Rank 0 writes; the others read what it wrote.

    Raises:
        ConfigError, ManifestError, TextError, SampleError: with the file and the field.
    """
    config = job.config
    parts = ranks * config.engine.gradient_accumulation
    if config.run.batch_size % parts or config.run.batch_size < 2 * parts:
        raise ConfigError(
            f"run.batch_size: {config.run.batch_size} clips cannot be shared out to {ranks} ranks x "
            f"{config.engine.gradient_accumulation} parts (engine.gradient_accumulation) of at least 2 each"
        )
    kernels = kernels_of(config.engine.kernels, device, type_of(config.engine.precision, device))
    folder: RunFolder | None = None
    if rank == 0:
        name = "sample" if job.sample else config.model.name
        folder = RunFolder.reopen(job.out) if job.resume and job.out else RunFolder.create(job.out, name)
    folder = RunFolder(gather(folder.path if folder else None)[0])
    reporter = Reporter(folder, rank == 0, config.run.steps)
    oracle = None
    if job.sample:
        config.data.sources = [sample_manifest(rank, reporter.say)]
    if config.data.sources == [str(SAMPLE / "manifest.csv")]:
        oracle = dict(levels(config.data.sources[0]))
    corpus = read_corpus(config.data)
    if rank == 0 and not job.resume:
        make_tokenizer(config.data, corpus).save(folder.path)
    wait_for_all()
    tokenizer = Tokenizer.load(folder.path)
    fit_vocabulary(config.model, tokenizer)
    if rank == 0:
        folder.write_json(folder.config, to_dict(config))
    return Prepared(config, folder, corpus, tokenizer, reporter, oracle, kernels, job.resume)


def assemble(prepared: Prepared, rank: int, ranks: int, device: torch.device) -> Assembled:
    """Model, engine, loader and trainer; with ``resume``, in the state of the newest checkpoint.

    Raises:
        CheckpointError: nothing to resume from, or a checkpoint of another model. ConfigError, TextError: as they say.
    """
    config, folder, reporter = prepared.config, prepared.folder, prepared.reporter
    if device.type == "cpu":  # a decoding process and a thread on one core would slow each other down
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks - config.data.workers))
    torch.manual_seed(config.run.seed)
    try:
        module = Pretraining(config.model, config.engine.kernels)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if config.data.word_embeddings is not None:
        _set_word_embeddings(module, config)
    module.vatt.activation_checkpointing = config.engine.activation_checkpointing
    parameters = sum(p.numel() for p in module.parameters())
    shapes = {name: p.shape for name, p in module.state_dict().items()}
    rank_batch = config.run.batch_size // ranks
    engine = Engine(module, config.engine, config.optim, rank_batch, device)
    torch.manual_seed(config.run.seed + 1 + rank)  # dropout differs between ranks
    skips = SkipLog(folder.skipped if rank == 0 else None, config.data.max_bad_share)
    evaluator = Evaluator(
        config, folder, engine, reporter, rank, prepared.corpus.held_out, prepared.tokenizer, prepared.oracle
    )
    found = resume_from(prepared.folder, reporter, engine, shapes, rank) if prepared.resume else None
    step = found.step if found else 0
    skips.note(prepared.corpus.skipped)
    loader = TrainLoader(
        prepared.corpus.sources,
        prepared.tokenizer,
        config.model.input,
        config.data,
        batch_size=rank_batch,
        rank=rank,
        world_size=ranks,
        seed=config.run.seed,
        start_step=step,
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = peak_flops(name)
    trainer = Trainer(
        config=config,
        folder=folder,
        engine=engine,
        loader=loader,
        skips=skips,
        reporter=reporter,
        rank=rank,
        flops_per_sample=train_flops_per_sample(config.model),
        peak_flops=None if peak is None or engine.dtype != torch.bfloat16 else peak * ranks,
        evaluate=evaluator,
        step=step,
        counts=found.counts if found else {"skipped_steps": 0},
        pending=found.pending if found else {},
    )
    if rank == 0:
        folder.write_json(folder.deepspeed, engine.settings)
        folder.write_json(
            folder.environment, environment() | prepared.kernels | {"ranks": str(ranks), "type": str(engine.dtype)}
        )
        clips = [clip for source in prepared.corpus.sources for clip in source.clips]
        captioned = sum(bool(clip.captions) for clip in clips)
        reporter.say(
            f"{config.model.name}: {parameters / 1e6:.1f} M parameters, {len(clips)} clips to train on "
            f"({captioned} with captions), "
            f"{len(prepared.corpus.held_out)} held out, {prepared.tokenizer.vocab_size} words; {ranks} x {name}, "
            f"{'bf16' if engine.dtype == torch.bfloat16 else 'fp32'}, ZeRO {config.engine.zero}; {folder.path}"
        )
        reporter.say(f"kernels: {', '.join(f'{name} ({ops})' for name, ops in grouped(prepared.kernels).items())}")
        if prepared.corpus.skipped:
            reporter.warn(f"the data sets: {skips.summary()}")
        for note in prepared.corpus.notes:
            reporter.warn(note)
    return Assembled(prepared, trainer, evaluator, rank)


def kernels_of(backend: str, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The backend of each operation of the model, by "kernel <operation>".

    Raises:
        ConfigError: a backend that does not exist or cannot run here.
    """
    try:
        return {f"kernel {op}": pick(op, backend, Call(device, dtype)) for op in operations()}
    except BackendError as error:
        raise ConfigError(f"engine.kernels: {error}") from error


def grouped(kernels: dict[str, str]) -> dict[str, str]:
    """Backend -> its operations, in one text."""
    found: dict[str, list[str]] = {}
    for op, backend in kernels.items():
        found.setdefault(backend, []).append(op.removeprefix("kernel "))
    return {backend: ", ".join(ops) for backend, ops in found.items()}


def resume_from(folder: RunFolder, reporter: Reporter, engine: Engine, shapes: dict[str, Any], rank: int) -> Checkpoint:
    """Puts the newest checkpoint of a run that can be read into the engine.

    Raises:
        CheckpointError: there is none, or it is of another model.
    """
    checkpoint, complaints = load_latest(folder.checkpoints)
    for complaint in complaints:
        reporter.warn(f"{complaint}; going back to the one before")
    if checkpoint is None:
        raise CheckpointError(f"--resume: {folder.checkpoints} holds no checkpoint that can be read")
    check_fits(checkpoint, shapes, folder.checkpoints)
    wanted, there = engine.optimizer_names(), checkpoint.optimizer.keys()
    if int(checkpoint.optimizer["step"]) and wanted != there:
        raise CheckpointError(
            f"{folder.checkpoints}: is of another optimizer, or others were trained (optim.kind, freeze_backbone): "
            f"it lacks {sorted(wanted - there)[:2]} and has {sorted(there - wanted)[:2]}"
        )
    engine.load(checkpoint.model, checkpoint.optimizer)
    if rank < len(checkpoint.random):
        set_random_state(checkpoint.random[rank])
    if rank == 0:
        folder.forget_metrics_after(checkpoint.step)
    reporter.say(f"resumed from step {checkpoint.step}")
    return checkpoint


def _set_word_embeddings(module: Pretraining, config: PretrainConfig) -> None:
    table = next(part for part in module.modules() if isinstance(part, WordEmbedding)).weight
    rows, width = table.shape
    values = load_word_embeddings(str(config.data.word_embeddings), rows, width)
    with torch.no_grad():
        table.copy_(torch.from_numpy(values))
