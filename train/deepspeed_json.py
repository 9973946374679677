"""The DeepSpeed configuration, made from ours and merged with the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from train.config import EngineConfig, OptimConfig
from vatt.config import ConfigError

_OURS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler")


def deepspeed_json(config: EngineConfig, optim: OptimConfig, micro_batch: int, bf16: bool) -> dict[str, Any]:
    """Our configuration as DeepSpeed's, with the entries of the user's own file over it.

    Raises:
        ConfigError: the user's file cannot be read, or sets what our own configuration decides.
    """
    # DeepSpeed's bf16 without ZeRO scales the loss, begins with an empty Adam step and hides its fp32 weights; stage 1
    # does none of that, and is the same computation.
    stage = 1 if bf16 and config.zero == 0 else config.zero
    zero: dict[str, Any] = {"stage": stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # the optimizer is ours; torch's fused Adam needs no compiler
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }
    if bf16:
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if config.deepspeed is None:
        return settings
    try:
        own = json.loads(Path(config.deepspeed).read_text())
        if not isinstance(own, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config.deepspeed}: cannot read the DeepSpeed configuration: {error}") from error
    for key in _OURS:
        if key in own:
            raise ConfigError(f"{config.deepspeed}: {key} is set by run.*, engine.* and optim.*; remove it there")
    for key in ("zero_optimization", "fp16", "bf16"):
        if not isinstance(own.get(key, {}), dict):
            raise ConfigError(f"{config.deepspeed}: {key}: expected an object, got {own[key]!r}")
    wanted = own.get("zero_optimization", {}).pop("stage", config.zero)
    if wanted != config.zero:
        raise ConfigError(f"{config.deepspeed}: zero_optimization.stage is {wanted}, but --zero is {config.zero}")
    if own.get("fp16", {}).get("enabled"):
        raise ConfigError(f"{config.deepspeed}: fp16 is not supported; use engine.precision=bf16")
    if own.get("bf16", {}).get("enabled", bf16) != bf16:
        raise ConfigError(f"{config.deepspeed}: bf16.enabled is {not bf16}; set engine.precision instead")
    return _merge(settings, own)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
