"""The kernels of a run: checked and chosen before its first step, by rank 0 for all ranks.

On a GPU every backend that could run an operation of the model is checked and timed there, once:
`vatt.kernel_selection` keeps the result. A run that goes on after a stop keeps the choice that it began with
(kernels.json), so that its steps stay the same bit by bit.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

import vatt.kernels
from train.config.sections import KERNEL_CHOICES, EngineConfig, JobConfig
from train.core.console import Reporter
from train.core.ranks import RankContext, gather
from train.core.run_folder import RunFolder
from vatt.config import ConfigError
from vatt.kernel_selection import choose, problems_of
from vatt.kernels import BackendError, Call, operations, select
from vatt.kernels.registry import Problem, forget_decisions, loaded
from vatt.kernels.selection import Selection, cache
from vatt.precision import type_of


def check_setting(config: JobConfig, context: RankContext) -> None:
    """Looks at engine.kernels before anything is built.

    Raises:
        ConfigError: a backend that not every operation has, or that cannot run here.
    """
    name, known = config.engine.kernels, [set(vatt.kernels.backends(op)) for op in operations()]
    choices = [*KERNEL_CHOICES, *sorted(set.intersection(*known))]
    if name not in choices:
        raise ConfigError(f"engine.kernels: {name!r} is not one of {', '.join(choices)}")
    call = Call(context.device, type_of(config.engine.precision, context.device))
    try:
        for op in operations():
            select(op, config.engine.backend, call)
    except BackendError as error:
        raise ConfigError(f"engine.kernels: {error}") from error


def measures(config: EngineConfig, device: torch.device) -> bool:
    """Whether a run on ``device`` checks and times its kernels."""
    return config.kernels == "measured" or (config.kernels == "auto" and device.type == "cuda")


def choose_kernels(
    config: JobConfig, context: RankContext, folder: RunFolder, reporter: Reporter, module: nn.Module, resume: bool
) -> tuple[Selection, dict[str, str]]:
    """Makes "auto" follow what was measured here for the training steps of ``module``. Rank 0 decides and the others
    wait for it. It tells times, what was wrong, and what had no time.

    Returns:
        The decisions, none where nothing is to be measured; and the backends that a step takes, by operation.

    Raises:
        ConfigError: on all ranks, the backend asked for cannot run an operation of the model.
    """
    forget_decisions()
    loaded(context.device)
    problems = _problems(config, context, module)
    chosen = Selection()
    if measures(config.engine, context.device):
        chosen = _measured(problems, context, folder, reporter, resume)
    return chosen, _taken(problems, config.engine.backend, context.device)


def _measured(
    problems: list[Problem], context: RankContext, folder: RunFolder, reporter: Reporter, resume: bool
) -> Selection:
    found, whole = None, None
    if context.first:
        found = _choose(problems, context, folder, reporter, resume)
        whole = cache.to_json(cache.load(context.device).merged(found))
        _tell(found, reporter)
        folder.write_json(folder.kernels, cache.content(context.device, found))
    chosen, installed = gather((cache.to_json(found) if found else None, whole))[0]
    cache.from_json(installed).install(context.device)
    return cache.from_json(chosen)


def _problems(config: JobConfig, context: RankContext, module: nn.Module) -> list[Problem]:
    dtype = type_of(config.engine.precision, context.device)
    rank_batch, parts = config.run.batch_size // context.ranks, config.engine.contrastive_parts
    samples = rank_batch // config.engine.parts
    batch: Any = module.empty_batch(samples)  # type: ignore[operator]
    if parts == 1:
        return problems_of(module.train(), batch, 0, dtype=dtype)
    cached = module.empty_features(rank_batch - samples, dtype)  # type: ignore[operator]
    return problems_of(module.train(), batch, 0, "last", cached, dtype=dtype)


def _taken(problems: list[Problem], backend: str, device: torch.device) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    try:
        for problem in problems:
            found.setdefault(problem.op, {})[select(problem.op, backend, problem.call(device))] = None
    except BackendError as error:
        raise ConfigError(f"engine.kernels: {error}") from error
    return {op: " and ".join(names) for op, names in found.items()}


def _choose(
    problems: list[Problem], context: RankContext, folder: RunFolder, reporter: Reporter, resume: bool
) -> Selection:
    begun = None
    if resume and folder.kernels.exists():
        try:
            begun = cache.read(json.loads(folder.kernels.read_text(encoding="utf-8")), context.device)
        except (OSError, ValueError) as error:
            reporter.warn(f"{folder.kernels}: {error}; kernels are chosen anew, so losses may differ by rounding")
    return choose(problems, context.device, begun=begun)


def _tell(found: Selection, reporter: Reporter) -> None:
    for line in found.lines():
        reporter.say(line)
    for (op, backend), why in found.failures().items():
        reporter.warn(f"kernels: {op}: {backend} is left out: {why}")
    if waiting := found.unfinished():
        names = ", ".join(f"{op} {backend}" for op, backend in waiting)
        reasons = {why for why in waiting.values() if why}
        reporter.say(
            f"kernels: no time was left for {names}{' (' + '; '.join(sorted(reasons)) + ')' if reasons else ''}; the "
            "next run goes on with them"
        )


def facts(found: Selection, taken: dict[str, str]) -> dict[str, str]:
    """What environment.json says of the kernels: for each operation the backends that a step takes, and the times."""
    known = {f"kernel {op}": backends for op, backends in taken.items()}
    lines = dict(line.split(": ", 1) for line in found.lines())
    return known | {f"measured {op}": text for op, text in lines.items()}


def in_one_line(taken: dict[str, str]) -> str:
    """Each backend with its operations."""
    found: dict[str, list[str]] = {}
    for op, backend in taken.items():
        found.setdefault(backend, []).append(op)
    return ", ".join(f"{backend} ({', '.join(ops)})" for backend, ops in found.items())
