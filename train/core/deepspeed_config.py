"""The JSON that DeepSpeed is configured by, generated from our configuration, with the user's own file over it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from train.config.sections import EngineConfig, OptimConfig
from vatt.config import ConfigError
from vatt.json_files import JSONError, read_json

# What our own configuration decides, and the user's DeepSpeed JSON may therefore not set.
_OURS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler")


class Installed(NamedTuple):
    """What generated settings depend on of the DeepSpeed that is installed."""

    version: str
    fp32_sums: bool  # whether stage 2 obeys grad_accum_dtype: since 0.19.8; before, it adds up in the type of weights
    norm_can_be_left_out: bool  # of the gradient: since 0.19


def generate(
    config: EngineConfig, optim: OptimConfig, micro_batch: int, bf16: bool, installed: Installed
) -> dict[str, Any]:
    """Our configuration as DeepSpeed's, with the entries of the user's own file over it (engine.deepspeed).

    Raises:
        ConfigError: the user's file cannot be read, or sets what our own configuration decides; parts of a batch with
            an offloaded optimizer, or in bf16 with a DeepSpeed that would add them up in bf16.
    """
    # DeepSpeed's bf16 without ZeRO scales the loss, begins with an empty Adam step and hides its fp32 weights; stage 1
    # does none of that, and is the same computation.
    stage = 1 if bf16 and config.zero == 0 else config.zero
    # Many small gradients are added up. Stage 1 would do that in bf16; 2 and 3 can in fp32, each rank in its share.
    adds_up = bf16 and config.contrastive_parts > 1
    stage = 2 if adds_up and stage == 1 else stage
    zero: dict[str, Any] = {"stage": stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.parts,
        # our optimizer clips without a wait, but of ZeRO 3 it may see the model in parts, one at a time
        "gradient_clipping": optim.clip_norm if stage == 3 else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # the optimizer is ours; torch's fused Adam needs no compiler
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }
    if bf16:
        settings["bf16"] = {"enabled": True}
    if adds_up:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.deepspeed is not None:
        settings = _merge(settings, _users_json(config, bf16))
    if config.contrastive_parts > 1 and _offloads(settings["zero_optimization"]):
        raise ConfigError(
            "engine.contrastive_parts: not with an offloaded optimizer, for which DeepSpeed keeps the gradients of "
            "those weights alone that the last part reaches; the heads are not among them"
        )
    if adds_up and stage == 2 and not installed.fp32_sums:
        raise ConfigError(
            f"engine.contrastive_parts: DeepSpeed {installed.version} would add the gradients of the parts up in "
            "bf16; install deepspeed>=0.19.8, or set engine.zero=3 or engine.precision=fp32"
        )
    return _merge(_without_waits(settings, installed), settings)


def _without_waits(settings: dict[str, Any], installed: Installed) -> dict[str, Any]:
    """What keeps DeepSpeed from waiting for the GPU in each step, as far as it can be kept from it: the timer of the
    throughput synchronizes twice a step, and the host reads the norm of the gradient and whether it is finite. Our
    optimizer makes the update void instead, and clips."""
    zero, clips = settings["zero_optimization"], settings["gradient_clipping"] > 0
    unread = zero["stage"] in (1, 2) and not clips and not _offloads(zero) and "zenflow" not in zero
    quiet: dict[str, Any] = {"timers": {"throughput": {"enabled": False}}}
    if "bf16" in settings:
        quiet["bf16"] = {"check_grad_overflow": not unread}
    if unread and installed.norm_can_be_left_out:
        quiet["zero_optimization"] = {"compute_grad_norm": False}
    return quiet


def _offloads(zero: dict[str, Any]) -> bool:
    return zero.get("offload_optimizer", {}).get("device", "none") != "none"


def _users_json(config: EngineConfig, bf16: bool) -> dict[str, Any]:
    """The user's own file, which may not contradict our configuration."""
    assert config.deepspeed is not None
    try:
        own = read_json(config.deepspeed, dict)
    except JSONError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
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
    return own


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
