"""Builds a run, new or as a checkpoint left it: what pretraining and fine-tuning share.

A job's own build goes through this file from top to bottom: ``open_run``, its data, ``seed_process``, its module, and
``build_trainer``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from train.config.sections import JobConfig
from train.core import kernels
from train.core.changes import check_settings_of_run, check_steps, tell_ranks
from train.core.checkpoint import Checkpoint, CheckpointError, check_fits, load_latest, set_aside, set_random_state
from train.core.command import Job
from train.core.console import Reporter
from train.core.engine import Engine
from train.core.evaluate import Evaluator
from train.core.graphs import refusals
from train.core.loop import Trainer
from train.core.nodes import check_folder, check_settings
from train.core.ranks import RankContext, gather, wait_for_all
from train.core.run_folder import RunFolder
from train.core.run_lock import RunLock
from train.core.tracking import Trackers, choose_trackers
from vatt.analysis.flops import peak_flops
from vatt.config import ConfigError, to_dict
from vatt.data import ClipLoader, SkipLog
from vatt.data.samples import AugmentOn
from vatt.data.skipped import Record
from vatt.environment import environment
from vatt.weights.tensors import Spec, TensorFile


def open_run(job: Job, name: str, context: RankContext, part_size: int = 1) -> tuple[RunFolder, Reporter]:
    """The folder of the run, made or found by rank 0, and what reports on it.

    Args:
        name: of a new folder in runs/.
        part_size: the fewest clips that a rank may have in one part of gradient accumulation.

    Raises:
        ConfigError: the batch does not divide, the kernels cannot run here, the folder cannot be used, or another
            node does not see it or has other settings.
    """
    config = job.config
    flags = {"allow-changes": job.allow_changes, "sample": job.sample}
    check_settings(context, to_dict(config), resume=job.resume, **flags)
    parts = context.ranks * config.engine.parts
    of_a_loss = config.run.batch_size / context.ranks / config.engine.gradient_accumulation
    if config.run.batch_size % parts or of_a_loss < part_size:
        at_least = f" of at least {part_size} each" if part_size > 1 else ""
        setting = "gradient_accumulation" if config.engine.contrastive_parts == 1 else "contrastive_parts"
        raise ConfigError(
            f"run.batch_size: {config.run.batch_size} clips cannot be shared out to {context.ranks} ranks x "
            f"{config.engine.parts} parts (engine.{setting}){at_least}; try a multiple of {part_size * parts}"
        )
    part, windows = config.run.batch_size // parts, config.data.windows_per_open
    if part % windows:
        raise ConfigError(
            f"data.windows_per_open: {windows} windows of a clip do not divide the {part} clips that a rank reads at "
            f"once (run.batch_size {config.run.batch_size} over {parts})"
        )
    kernels.check_setting(config, context)  # before there is a folder
    _check_trackers(config, context)
    if config.engine.contrastive_parts != 1 and (other := config.engine.without_parts):
        raise ConfigError(f"engine.contrastive_parts: cannot go with engine.{other}; set one of the two back")
    if config.engine.cuda_graphs and (reasons := refusals(config.engine, context.device, context.ranks)):
        raise ConfigError(f"engine.cuda_graphs: {'; '.join(reasons)}")
    folder: RunFolder | None = None
    if context.first:
        folder = _folder(job, name, context)
    path, absolute = gather((folder.path, folder.path.resolve()) if folder else None)[0]
    check_folder(context, absolute)
    folder = RunFolder(path if context.first else absolute)  # another node may have begun elsewhere
    reporter = Reporter(folder, context.first, config.run.steps)
    check_settings_of_run(job, reporter)
    return folder, reporter


def _check_trackers(config: JobConfig, context: RankContext) -> None:
    """Raises ConfigError, on all ranks: rank 0 lacks a tracker that is asked for."""
    problem: ConfigError | None = None
    if context.first:
        try:
            choose_trackers(config.run.track)
        except ConfigError as error:
            problem = error
    if context.ranks > 1:
        problem = gather(problem)[0]
    if problem is not None:
        raise problem


def _folder(job: Job, name: str, context: RankContext) -> RunFolder:
    """The folder of a run, locked.

    Raises:
        ConfigError: it cannot be used, or another job has it.
    """
    if not (job.resume and job.out):
        return RunFolder.create(job.out, name, job.restart, context.say)
    folder = RunFolder.reopen(job.out)
    RunLock(folder.path, context.say)
    return folder


def seed_process(config: JobConfig, context: RankContext) -> None:
    """Threads and random draws, before the module is made: its weights are the same on all ranks."""
    if context.device.type == "cpu":
        config.engine.threads = _threads(config.engine.threads, context)
        torch.set_num_threads(config.engine.threads)
    torch.manual_seed(config.run.seed)


def _threads(wanted: int, context: RankContext) -> int:
    """Threads of PyTorch on a CPU, by ``engine.threads``. The order of sums follows them, so a resumed run keeps the
    number that it began with, as far as there are cores; and it does not depend on ``data.workers``."""
    share = context.cores
    if wanted > share:
        context.say(f"warning: engine.threads: {share} in place of {wanted}, as a rank has {share} cores here")
    return min(wanted, share) or max(1, share - 1)  # reading has a core of its own


def augment_on(config: JobConfig, context: RankContext) -> AugmentOn:
    """Where crop, scale, flip and colours are made of the frames of this run, by ``data.augment_on``."""
    if config.data.augment_on == "auto":
        return "gpu" if context.device.type == "cuda" else "cpu"
    return config.data.augment_on


def build_trainer(
    job: Job,
    context: RankContext,
    folder: RunFolder,
    reporter: Reporter,
    module: nn.Module,
    *,
    make_loader: Callable[..., ClipLoader],
    make_evaluator: Callable[[Engine], Evaluator],
    flops_per_sample: float,
    skipped: list[Record],
    notes: list[str],
    introduction: str,
) -> Trainer:
    """Engine, loader and trainer; with ``job.resume``, in the state of the newest checkpoint. Rank 0 writes the folder.

    Args:
        module: as the engine takes it.
        make_evaluator: of what is called with the number of steps done, on all ranks.
        make_loader: takes the options of `ClipLoader` that depend on ranks and steps.
        skipped: what the data sets name and do not hold.
        notes: what a user should know of the data sets.
        introduction: of the model and its data, for the first line that a user sees of the run.

    Raises:
        CheckpointError: nothing to resume from, or a checkpoint of another model. ConfigError: as it says.
    """
    config = job.config
    parameters = sum(p.numel() for p in module.parameters())  # ZeRO 3 will shard them
    specs = {name: Spec(value.dtype, value.shape) for name, value in module.state_dict().items()}
    rank_batch = config.run.batch_size // context.ranks
    chosen, taken = kernels.choose_kernels(config, context, folder, reporter, module, job.resume)
    engine = Engine(module, config.engine, config.optim, rank_batch, context.device)
    torch.manual_seed(config.run.seed + 1 + context.rank)  # dropout differs between ranks
    checkpoint = _restore(job, folder, reporter, engine, specs, context) if job.resume else None
    skips = SkipLog(folder.skipped if context.first else None, config.data.max_bad_share)
    skips.note(skipped)
    peak = peak_flops(context.device_name)
    evaluator = make_evaluator(engine)
    trainer = Trainer(
        config=config,
        context=context,
        folder=folder,
        engine=engine,
        loader=make_loader(
            batch_size=rank_batch,
            rank=context.rank,
            world_size=context.ranks,
            seed=config.run.seed,
            start_step=checkpoint.step if checkpoint else 0,
            node_ranks=context.local_ranks,
            parts=engine.parts,
        ),
        skips=skips,
        reporter=reporter,
        evaluate=evaluator,
        evaluation_samples=evaluator.samples,
        flops_per_sample=flops_per_sample,
        peak_flops=None if peak is None or engine.dtype != torch.bfloat16 else peak * context.ranks,
    )
    if checkpoint:
        trainer.step, trainer.counts, trainer.pending = checkpoint.step, checkpoint.counts, checkpoint.pending
        trainer.saved = checkpoint.step
    if context.first:
        if job.resume:
            tell_ranks(context, folder, reporter)
        folder.write_config(to_dict(config), trainer.step)
        names = choose_trackers(config.run.track)
        reporter.trackers = Trackers(names, folder, to_dict(config), trainer.step, reporter.say)
        folder.write_json(folder.deepspeed, engine.settings)
        facts = {"ranks": str(context.ranks), "nodes": ", ".join(context.nodes), "type": str(engine.dtype)}
        folder.write_json(folder.environment, environment() | facts | kernels.facts(chosen, taken))
        precision = "bf16" if engine.dtype == torch.bfloat16 else "fp32"
        nodes = f" on {len(context.nodes)} nodes" if len(context.nodes) > 1 else ""
        where = f"{context.ranks} x {context.device_name}{nodes}, {precision}, ZeRO {config.engine.zero}; {folder.path}"
        reporter.say(f"{config.model.name}: {parameters / 1e6:.1f} M parameters, {introduction}; {where}")
        if not chosen.decisions:
            reporter.say(f"kernels: {kernels.in_one_line(taken)}")
        if skipped:
            reporter.warn(f"the data sets: {skips.summary()}")
        for note in notes:
            reporter.warn(note)
    wait_for_all()
    return trainer


def _restore(
    job: Job, folder: RunFolder, reporter: Reporter, engine: Engine, model: dict[str, Spec], context: RankContext
) -> Checkpoint[TensorFile] | None:
    """Puts the newest checkpoint of a run that can be read into the engine. None of a run that was ended before its
    first one: it begins again.

    Raises:
        CheckpointError: there are some, and none can be read; or it is of another model. ConfigError: it has done more
            steps than are asked for.
    """
    if not gather(folder.has_checkpoints())[0]:
        reporter.say("no checkpoint was written yet; the run begins again")
        if context.first:
            folder.forget_metrics_after(0)
        return None
    checkpoint, complaints = load_latest(folder.checkpoints, gather)
    for complaint in complaints:
        reporter.warn(f"{complaint}; going back to the one before")
    if checkpoint is None:
        raise CheckpointError(f"--resume: {folder.checkpoints} holds no checkpoint that can be read")
    check_steps(job, checkpoint.step)
    check_fits(checkpoint, model, engine.optimizer_specs(), folder.checkpoints)
    engine.load(checkpoint.model, checkpoint.optimizer)
    if context.rank < len(checkpoint.random):
        set_random_state(checkpoint.random[context.rank])
    if checkpoint.unchecked:
        reporter.say(f"step {checkpoint.step} was saved by an earlier version, without checksums; the next has them")
    if context.first:
        folder.forget_metrics_after(checkpoint.step)
        for name in set_aside(folder.checkpoints, checkpoint.step):
            reporter.say(f"what could not be read is kept as {folder.checkpoints / name}")
    reporter.say(f"resumed from step {checkpoint.step}")
    return checkpoint
