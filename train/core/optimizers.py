"""The optimizers of a run: Adam or SGD, guarded against gradients that are not finite, the backbone's clipped.

All ZeRO stages call ``step`` once the gradients are reduced and before anything is changed. Stage 0 hands over whole
gradients, the others each rank's part of every group.

On a GPU the host does not wait to learn whether gradients are finite: the update itself is made void there, and the
count of updates follows one step later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.config.sections import OptimConfig
from train.core.transfer import Later
from vatt.optim import SGD, Adam

HEAD = "classifier"  # the part of a parameter's name that marks the classification layer
Group = dict[str, Any]


class Guarded(torch.optim.Optimizer):
    """Leaves the weights alone when a gradient on any rank is not finite. The official code replaces NaN gradients by 0
    instead, which hides them and still moves the weights by the momentum.

    Attributes:
        moments: the names of a parameter's states.
        sharded: whether each rank holds only a part of every gradient (ZeRO 1 to 3).
        deferred: whether the device alone decides if an update is made. The host then learns it later, at the latest
            before the next update, when the device has long decided and has other work to do. Else the host waits.
        made: of the step under way, one entry for each call: whether the update was made.
        finite: whether all gradients of the step under way are finite, as `finite_everywhere` gives it, if the caller
            knows: ZeRO 1 to 3 show ``step`` one group at a time. None: it looks at those that it is shown.
    """

    moments: tuple[str, ...] = ()
    sharded = False
    deferred = False
    found_inf: Tensor | None = None  # read by PyTorch's fused Adam and by our SGD
    _before = 0  # updates of the run before this object

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: list[Later | bool] = []
        self.finite: Tensor | None = None
        # By the first parameter of a group: ZeRO 3 shows the parts of a group one by one.
        self._applied: dict[Tensor, int] = {}
        self._unread: list[tuple[Tensor, Later]] = []

    def step(self, closure: Any = None) -> Any:
        """One update, unless something is not finite. ZeRO 1 to 3 call this for one group at a time."""
        groups = [(group, gradients) for group in self.param_groups if (gradients := _gradients(group))]
        if not groups:
            return super().step(closure)
        self._settle({group["params"][0] for group, _ in groups})
        finite = self.finite
        if finite is None:
            finite = finite_everywhere([gradient for _, gradients in groups for gradient in gradients])
        if not self.deferred and not finite:  # waits
            self.made.append(False)
            return None
        for group, gradients in groups:
            if group.get("clip_norm", 0.0) > 0:
                _clip(gradients, group["clip_norm"], self.sharded)
        if not self.deferred:
            result = super().step(closure)
            self.made.append(True)
            for group, _ in groups:
                self._count(group["params"][0])
            return result
        self.found_inf = 1 - finite
        try:
            result = super().step(closure)
        finally:
            self.found_inf = None
        later = Later(finite)
        self.made.append(later)
        self._unread += [(group["params"][0], later) for group, _ in groups]
        return result

    def _settle(self, of: set[Tensor] | None = None) -> None:
        """Counts the updates of the steps before, which takes reading whether they were made; ``of`` these first
        parameters of groups alone, so that nothing of the step under way is waited for."""
        later, self._unread = self._unread, []
        for first, made in later:
            if of is not None and first not in of:
                self._unread.append((first, made))
            elif made.read():
                self._count(first)

    def _count(self, first: Tensor) -> None:
        self._applied[first] = self._applied.get(first, 0) + 1

    @property
    def updates(self) -> int:
        """Updates that this object made; waits for the last one."""
        self._settle()
        return max(self._applied.values(), default=0)

    def steps_done(self) -> int:
        """Updates of the whole run, also before a resume; waits for the last one."""
        return self._before + self.updates

    def fresh_state(self, parameter: Tensor, step: int) -> dict[str, Tensor]:
        """The states that a parameter has after ``step`` updates, to be filled."""
        self._before = step
        return {moment: torch.zeros_like(parameter, dtype=torch.float32) for moment in self.moments}


class GuardedAdam(Guarded, Adam):
    """Adam with the official epsilon."""

    moments = ("exp_avg", "exp_avg_sq")

    def _steps(self, group: Group) -> int:
        return self._before + max([self._applied.get(parameter, 0) for parameter in group["params"][:1]], default=0)

    def fresh_state(self, parameter: Tensor, step: int) -> dict[str, Tensor]:
        count = torch.tensor(float(step), device=parameter.device)  # where the fused implementation has it
        return {"step": count, **super().fresh_state(parameter, step)}


class GuardedSGD(Guarded, SGD):
    """SGD with the learning rate inside the velocity, as the official fine-tuning."""

    moments = ("velocity",)


def make_optimizer(module: nn.Module, optim: OptimConfig, on_gpu: bool, clip: bool = True) -> Guarded:
    """The optimizer of the trained parameters of ``module``.

    With ``clip_backbone`` there are two groups: the classification layer, whose gradient is not clipped, and the rest.

    Args:
        on_gpu: the optimizer works on a GPU, where no update makes the host wait.
        clip: whether ``clip_norm`` is this optimizer's work (`clip_backbone` is in any case).
    """
    groups = list(_groups(module, optim.clip_backbone, optim.clip_norm if clip else 0.0))
    made: Guarded
    if optim.kind == "sgd":
        made = GuardedSGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    else:
        made = GuardedAdam(
            groups,
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.epsilon,
            weight_decay=optim.weight_decay,
            fused=True,  # on a CPU four times as fast as the others
        )
    made.deferred = on_gpu
    return made


def _groups(module: nn.Module, clip_backbone: float, clip_norm: float) -> Iterator[Group]:
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not clip_backbone:
        yield {"params": [parameter for _, parameter in trained], "clip_norm": clip_norm}
        return
    for head in (False, True):
        if part := [parameter for name, parameter in trained if (HEAD in name.split(".")) == head]:
            yield {"params": part, "clip_norm": 0.0 if head else clip_backbone}


def _gradients(group: Group) -> list[Tensor]:
    return [parameter.grad for parameter in group["params"] if parameter.grad is not None]


def finite_everywhere(tensors: list[Tensor]) -> Tensor:
    """1.0 if all elements are finite, on all ranks, else 0.0; on the device."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors, float("inf"))])
    return _over_ranks(torch.isfinite(norms).all().float(), dist.ReduceOp.MIN)


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
    if dist.get_world_size() == 1:
        return value
    sent = value.cuda() if dist.get_backend() == "nccl" else value.clone()
    dist.all_reduce(sent, op=op)
    return sent.to(value.device)
