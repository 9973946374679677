"""The one file that imports DeepSpeed: a step of training, and the whole state by name, for every ZeRO stage.

State goes in and out as full tensors under our own parameter names. A checkpoint therefore does not depend on the
ZeRO stage or the number of ranks, and nothing is ever unpickled.

For that it reaches for a few attributes that DeepSpeed does not document. tests/train/test_deepspeed_private.py names
each one, and pyproject.toml bounds the version.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.runtime.config import DeepSpeedConfigError
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from train.config.sections import EngineConfig, OptimConfig
from train.core.deepspeed_config import Installed, generate
from train.core.graphs import Graphed, refusals
from train.core.optimizers import finite_everywhere, make_optimizer
from train.core.transfer import Later, Uploader
from vatt.config import ConfigError
from vatt.data import Batch
from vatt.distributed import sum_over_ranks
from vatt.models.tokens import send
from vatt.objectives import parts
from vatt.precision import type_of
from vatt.weights.tensors import Spec, Tensors


def deepspeed_json(config: EngineConfig, optim: OptimConfig, micro_batch: int, bf16: bool) -> dict[str, Any]:
    """`generate` for the DeepSpeed that is installed."""
    fp32_sums = bool(getattr(DeepSpeedZeroOptimizer, "_use_compact_grad_partition_buffer", None))
    norm_can_be_left_out = "compute_grad_norm" in DeepSpeedZeroConfig.model_fields
    installed = Installed(deepspeed.__version__, fp32_sums, norm_can_be_left_out)
    return generate(config, optim, micro_batch, bf16, installed)


class GlooAccelerator(CPU_Accelerator):
    """DeepSpeed's CPU accelerator without its own collectives in shared memory, which it would spend a minute compiling
    at the first start. gloo does the same, and no compiler is needed.
    """

    def get_op_builder(self, class_name: str) -> Any:
        return None if class_name == "ShareMemCommBuilder" else super().get_op_builder(class_name)


class StepResult:
    """A step of training that the device may still be computing: whoever reads it waits until it has."""

    def __init__(self, names: list[str], means: Later, made: list[Later | bool]) -> None:
        """``means``: the losses of ``names``; ``made``: what `Guarded.made` says of the step."""
        self._names, self._means, self._made = names, means, made

    @property
    def losses(self) -> dict[str, float]:
        """By name, averaged over ranks."""
        return dict(zip(self._names, self._means.read(), strict=True))

    @property
    def applied(self) -> bool:
        """Whether the weights were updated. If not, something was not finite."""
        return bool(self._made) and all(made if isinstance(made, bool) else made.read() for made in self._made)


class Engine:
    """A module under DeepSpeed.

    Args:
        module: called with (batch, seed), returns a dictionary of scalar losses, among them "loss". What its method
            ``draw(batch, seed, first)`` returns goes into the batch; ``first`` is the place of its first sample in the
            batch of all ranks. Its method ``prepare(batch)`` makes of it, on the device, what it is called with. What
            ``step_sums(part)`` returns, if it has such a method, is summed over the parts and ranks of a step and put
            into each part. Its attribute ``collectives`` says whether its forward pass talks to the other ranks. With
            engine.contrastive_parts it is called as `vatt.objectives.parts` says.
        rank_batch: samples of a step on this rank.

    Attributes:
        settings: the DeepSpeed configuration in use.
        module: the module itself.
        parts: of the batch of this rank, that a step takes.

    Raises:
        ConfigError: DeepSpeed, CUDA graphs or parts of a batch cannot do what is configured; the message names the
            setting.
    """

    def __init__(
        self, module: nn.Module, config: EngineConfig, optim: OptimConfig, rank_batch: int, device: torch.device
    ) -> None:
        if config.cuda_graphs and (
            reasons := refusals(config, device, dist.get_world_size(), bool(module.collectives))
        ):
            raise ConfigError(f"engine.cuda_graphs: {'; '.join(reasons)}")
        self._contrastive = config.contrastive_parts > 1
        if self._contrastive and (reasons := parts.refusals(module)):
            raise ConfigError(f"engine.contrastive_parts: {'; '.join(reasons)}")
        self.dtype = type_of(config.precision, device)
        bf16 = self.dtype == torch.bfloat16
        self.device, self.zero, self.parts = device, config.zero, config.parts
        self._part_size = rank_batch // self.parts
        self.settings = deepspeed_json(config, optim, self._part_size, bf16)
        on_gpu = device.type == "cuda" and not config.offload_optimizer
        self._optimizer = make_optimizer(module, optim, on_gpu, clip=not self.settings["gradient_clipping"])
        self._optimizer.sharded = self.settings["zero_optimization"]["stage"] > 0
        logger.setLevel(logging.ERROR)
        # ZeRO calls collectives by names that PyTorch is about to change
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        if device.type == "cpu":
            set_accelerator(GlooAccelerator())
        try:
            self._engine, *_ = deepspeed.initialize(
                model=module.to(device), optimizer=self._optimizer, config=self.settings, dist_init_required=False
            )
        except (ValueError, DeepSpeedConfigError) as error:  # pydantic's errors are ValueErrors
            if config.deepspeed is None:
                raise
            raise ConfigError(f"{config.deepspeed}: DeepSpeed refuses it: {error}") from error
        self.module: nn.Module = self._engine.module
        self._upload = Uploader(device)
        if config.cuda_graphs:
            Graphed(self.module)
        self._wrapper = self._engine.optimizer  # of ZeRO, around ours; ours itself in fp32 without ZeRO
        groups = getattr(self._wrapper, "fp32_partitioned_groups_flat", self._optimizer.param_groups)
        if optim.clip_backbone and len(groups) != len(self._optimizer.param_groups):
            raise ConfigError(
                "optim.clip_backbone: ZeRO 3 cuts this model into several groups, whose norm is not known together; "
                "set zero_optimization.sub_group_size above the number of parameters in your --deepspeed-config"
            )

    def train_step(self, batch: Iterable[Batch], lr: float, seed: int) -> StepResult:
        """One update from the batch of this rank at the rate ``lr``. On a GPU it returns before the device is done.

        Args:
            batch: its `parts` in order, on the host or on the device. They are taken from it as they are needed, and
                all before anything changes: an error that is raised there leaves no trace. Each is let go after use.
            seed: of what the module draws on the host (`draw`).
        """
        self.module.train()
        for optimizer in (self._wrapper, self._optimizer):
            for group in optimizer.param_groups:
                group["lr"] = lr
        self._optimizer.made = []
        # Without a graph, the passes talk to the other ranks in ZeRO 3 alone.
        sums: dict[str, Tensor] = {}
        if not self._contrastive or self.zero == 3:
            batch = list(batch)
            sums = self._sums(batch, seed)
            batch = iter(batch)
        made = (partial(self._on_device, part, seed, number, sums) for number, part in enumerate(batch))
        del batch
        if self._contrastive:
            losses = parts.losses_in_parts(made, self.parts, partial(self._call, seed), self._backward, self.device)
        else:
            losses = self._accumulated(made, seed)
        names = sorted(losses)
        means = torch.stack([losses[name].float() for name in names])
        if dist.get_world_size() > 1:
            dist.all_reduce(means)
            means /= dist.get_world_size()
        self._upload.let_go()
        return StepResult(names, Later(means), self._optimizer.made)

    def _accumulated(self, made: Iterator[partial[Mapping[str, Any]]], seed: int) -> dict[str, Tensor]:
        """The mean of the losses of the parts, each of which is a batch of its own."""
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(made, start=1):
            losses = self._engine(part(), seed)
            for name, value in losses.items():
                value = value.detach().float() / self.parts
                sums[name] = sums[name] + value if name in sums else value
            self._backward(losses["loss"] / self.parts, number == self.parts)
        return sums

    def _sums(self, batch: list[Batch], seed: int) -> dict[str, Tensor]:
        """What the module wants of the whole step: over all parts and ranks, on the device."""
        module: Any = self.module
        if not hasattr(module, "step_sums"):
            return {}
        found = [module.step_sums(self._drawn(part, seed, number)) for number, part in enumerate(batch)]
        own = {name: torch.stack([sums[name] for sums in found]).sum(0) for name in found[0]}
        return {name: sum_over_ranks(send(value, self.device)) for name, value in own.items()}

    def _drawn(self, part: Batch, seed: int, number: int) -> dict[str, Tensor]:
        """The tensors of a part, and what its step draws on the host."""
        tensors = {key: value for key, value in part.items() if isinstance(value, Tensor)}
        module: Any = self.module
        first = (dist.get_rank() * self.parts + number) * self._part_size
        return {**tensors, **module.draw(tensors, seed, first)}

    def _on_device(self, part: Batch, seed: int, number: int, sums: dict[str, Tensor]) -> Mapping[str, Any]:
        """A part with what its step draws on the host, ready for the passes."""
        module: Any = self.module
        return module.prepare({**self._upload(self._drawn(part, seed, number)), **sums})

    def _call(
        self, seed: int, batch: Mapping[str, Any], part: parts.Part, cached: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        return self._engine(batch, seed, part, cached)

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Adds to the gradients; with the last part of a step it updates the weights."""
        # DeepSpeed 0.19 scales what the module itself has returned, whatever it is told here
        self._engine.backward(loss * 1, scale_wrt_gas=False)
        self._optimizer.finite = self._finite() if last else None
        self._engine.step()
        if not last:
            self._upload.let_go()

    def _finite(self) -> Tensor | None:
        """Whether all gradients are finite, where ZeRO 1 or 2 holds those of several groups; see `Guarded.finite`."""
        if len(self._optimizer.param_groups) == 1 or self.settings["zero_optimization"]["stage"] not in (1, 2):
            return None
        held = [gradient for group in self._wrapper.averaged_gradients.values() for gradient in group or ()]
        return finite_everywhere(held) if held else None  # none where they are offloaded

    def model_tensors(self, prefix: str = "") -> Tensors:
        """Weights in fp32 and buffers, whole, by name, one at a time. All ranks must go through all of them, together.

        Args:
            prefix: that the names are given without.
        """
        parameters, buffers = dict(self.module.named_parameters()), dict(self.module.named_buffers())
        specs = {name: Spec(torch.float32, _whole_shape(parameter)) for name, parameter in parameters.items()}
        specs |= {name: Spec(buffer.dtype, buffer.shape) for name, buffer in buffers.items()}
        full_names = {name.removeprefix(prefix): name for name in specs}

        def whole(short: str) -> Tensor:
            name = full_names[short]
            return self._whole_weight(parameters[name]) if name in parameters else buffers[name].detach()

        return Tensors({short: specs[name] for short, name in full_names.items()}, whole)

    def _whole_weight(self, parameter: nn.Parameter) -> Tensor:
        full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        if full is None:  # plain fp32 without ZeRO, or a frozen table
            with self._gathered([parameter]):
                full = parameter.detach()
                full = full.clone() if self.zero == 3 else full
        return full.detach().float()

    def optimizer_specs(self) -> dict[str, Spec]:
        """What the tensors of the optimizer are like after the first update."""
        specs = {"step": Spec(torch.int64, torch.Size())}
        for name, parameter in self._trained():
            for moment in self._optimizer.moments:
                specs[f"{name}.{moment}"] = Spec(torch.float32, _whole_shape(parameter))
        return specs

    def optimizer_tensors(self) -> Tensors:
        """The optimizer's moments, as "<parameter>.<moment>", and "step": as `model_tensors`."""
        step = torch.tensor(self._optimizer.steps_done())
        if step == 0:
            return Tensors.of({"step": step})
        self._link()
        parameters = dict(self._trained())

        def whole(name: str) -> Tensor:
            if name == "step":
                return step
            of, _, moment = name.rpartition(".")
            full = safe_get_full_optimizer_state(parameters[of], moment)
            full = self._optimizer.state[parameters[of]][moment] if full is None else full
            return full.detach().float().view(_whole_shape(parameters[of]))

        return Tensors(self.optimizer_specs(), whole)

    def load(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Puts back what ``model_tensors`` and ``optimizer_tensors`` gave. Shapes must fit. All ranks must call."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                value = model[name].to(self.device)
                with self._gathered([parameter], writer=0):
                    if parameter.numel():
                        parameter.copy_(value)
                if parameter.requires_grad and self.zero == 3:
                    safe_set_local_fp32_param(parameter, _own_part(parameter, value))
                elif parameter.requires_grad:
                    safe_set_full_fp32_param(parameter, value)
            for name, buffer in self.module.named_buffers():
                buffer.copy_(model[name])
            if (step := int(optimizer["step"])) == 0:
                return
            self._prime(step)
            for name, parameter in self._trained():
                for moment in self._optimizer.moments:
                    value = optimizer[f"{name}.{moment}"].to(self.device)
                    if parameter in self._optimizer.state:
                        self._optimizer.state[parameter][moment].copy_(value)
                    elif self.zero == 3:
                        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), moment)
                    else:
                        safe_set_full_optimizer_state(parameter, value, moment)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    @contextlib.contextmanager
    def _gathered(self, parameters: list[nn.Parameter], writer: int | None = None) -> Iterator[None]:
        if self.zero == 3:
            with deepspeed.zero.GatheredParameters(parameters, modifier_rank=writer):
                yield
        else:
            yield

    def _prime(self, step: int) -> None:
        """Gives the optimizer the states that it makes at its first step, so that they can be filled."""
        if self.zero == 3:
            owned = list(self._wrapper.fp32_partitioned_groups_flat)
        else:
            owned = [p for group in self._optimizer.param_groups for p in group["params"]]
        for p in owned:
            self._optimizer.state[p] = self._optimizer.fresh_state(p, step)
        self._link()

    def _link(self) -> None:
        """ZeRO 1 and 2 (and bf16 without ZeRO) find a parameter's part of the states through this. They link once,
        after the step of the first group, when the other groups have no states yet."""
        if link := getattr(self._wrapper, "_lazy_init_hp_params_optimizer_state", None):
            self._wrapper._hp_optimizer_states_linked = False
            link()

    def close(self) -> None:
        """Frees what DeepSpeed holds."""
        self._engine.destroy()


def _whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The whole shape, also of a parameter that ZeRO 3 has sharded."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _own_part(parameter: Any, whole: Tensor) -> Tensor:
    """The part of ``whole`` that this rank keeps of a parameter under ZeRO 3, flat, with zeros after its end.

    DeepSpeed's own way to set a whole tensor forgets the padding, and fails where the ranks do not divide the elements.
    """
    size, rank = parameter.ds_tensor.numel(), dist.get_rank()
    part = whole.new_zeros(size)
    own = whole.flatten()[rank * size : (rank + 1) * size]
    part[: own.numel()] = own
    return part
