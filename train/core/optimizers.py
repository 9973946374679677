"""The optimizers of a run: Adam or SGD, guarded against gradients that are not finite, the backbone's clipped.

All ZeRO stages call ``step`` once the gradients are reduced and before anything is changed. Stage 0 hands over whole
gradients, the others each rank's part of every group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.config.sections import OptimConfig
from vatt.optim import SGD, Adam

HEAD = "classifier"  # the part of a parameter's name that marks the classification layer
Group = dict[str, Any]


class Guarded(torch.optim.Optimizer):
    """Leaves the weights alone when a gradient on any rank is not finite. The official code replaces NaN gradients by 0
    instead, which hides them and still moves the weights by the momentum.

    Attributes:
        moments: the names of a parameter's states.
        updates: how many updates were made, by this object. ZeRO 1 to 3 make one group's at a time.
        sharded: whether each rank holds only a part of every gradient (ZeRO 1 to 3).
    """

    moments: tuple[str, ...] = ()
    updates = 0
    sharded = False

    def step(self, closure: Any = None) -> Any:
        """One update, unless something is not finite."""
        groups = [(group, gradients) for group in self.param_groups if (gradients := _gradients(group))]
        if groups and not _finite_everywhere([gradient for _, gradients in groups for gradient in gradients]):
            return None
        for group, gradients in groups:
            if group.get("clip_norm", 0.0) > 0:
                _clip(gradients, group["clip_norm"], self.sharded)
            group["updates"] = group.get("updates", 0) + 1
            self.updates = max(self.updates, group["updates"])
        return super().step(closure)

    def steps_done(self) -> int:
        """Updates of the whole run, also before a resume."""
        raise NotImplementedError

    def fresh_state(self, parameter: Tensor, step: int) -> dict[str, Tensor]:
        """The states that a parameter has after ``step`` updates, to be filled."""
        return {moment: torch.zeros_like(parameter, dtype=torch.float32) for moment in self.moments}


class GuardedAdam(Guarded, Adam):
    """Adam with the official epsilon."""

    moments = ("exp_avg", "exp_avg_sq")

    def steps_done(self) -> int:
        return max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)

    def fresh_state(self, parameter: Tensor, step: int) -> dict[str, Tensor]:
        on = parameter.device if self.defaults.get("fused") else torch.device("cpu")
        return {"step": torch.tensor(float(step), device=on), **super().fresh_state(parameter, step)}


class GuardedSGD(Guarded, SGD):
    """SGD with the learning rate inside the velocity, as the official fine-tuning."""

    moments = ("velocity",)
    _before = 0

    def steps_done(self) -> int:
        return self._before + self.updates

    def fresh_state(self, parameter: Tensor, step: int) -> dict[str, Tensor]:
        self._before = step
        return super().fresh_state(parameter, step)


def make_optimizer(module: nn.Module, optim: OptimConfig, fused: bool) -> Guarded:
    """The optimizer of the trained parameters of ``module``; ``fused`` is for Adam on a GPU.

    With ``clip_backbone`` there are two groups: the classification layer, whose gradient is not clipped, and the rest.
    """
    groups = list(_groups(module, optim.clip_backbone))
    if optim.kind == "sgd":
        return GuardedSGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return GuardedAdam(
        groups,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
        weight_decay=optim.weight_decay,
        fused=fused,
    )


def _groups(module: nn.Module, clip_backbone: float) -> Iterator[Group]:
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not clip_backbone:
        yield {"params": [parameter for _, parameter in trained]}
        return
    for head in (False, True):
        if part := [parameter for name, parameter in trained if (HEAD in name.split(".")) == head]:
            yield {"params": part, "clip_norm": 0.0 if head else clip_backbone}


def _gradients(group: Group) -> list[Tensor]:
    return [parameter.grad for parameter in group["params"] if parameter.grad is not None]


def _finite_everywhere(tensors: list[Tensor]) -> bool:
    """Whether all elements are finite, on all ranks."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors, float("inf"))])
    return bool(_over_ranks(torch.isfinite(norms).all().float(), dist.ReduceOp.MIN))


def _clip(gradients: list[Tensor], limit: float, sharded: bool) -> None:
    """Scales the gradients of a group to the global norm ``limit`` if theirs is larger (tf.clip_by_global_norm)."""
    square = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().sum()
    if sharded:
        square = _over_ranks(square, dist.ReduceOp.SUM)
    scale = limit / torch.clamp(square.sqrt(), min=limit)
    own = list({gradient.data_ptr(): gradient for gradient in gradients}.values())  # some may be one and the same
    torch._foreach_mul_(own, scale.to(own[0].dtype))


def _over_ranks(value: Tensor, op: Any) -> Tensor:
    """The value reduced over all ranks, where it was: NCCL takes nothing from a CPU, where offloaded gradients are."""
    sent = value.cuda() if dist.get_backend() == "nccl" else value.clone()
    dist.all_reduce(sent, op=op)
    return sent.to(value.device)
