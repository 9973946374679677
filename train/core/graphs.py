"""CUDA graphs: the forward pass of a step in one launch and the backward pass in another (engine.cuda_graphs).

What it asks of PyTorch is `torch.cuda.make_graphed_callables`; it ran on an H200 (torch 2.11, ZeRO 0). Its
decisions and its handling of batches are tested on the CPU.

Gradients leave the graph through PyTorch's autograd, so what DeepSpeed does with them, and the update, stay outside.
Random numbers of the GPU come from PyTorch's generator, which gives each replay new ones; what is drawn on the host
comes with the batch, and PyTorch copies a batch into the memory that the graph reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from train.config.sections import EngineConfig


def refusals(config: EngineConfig, device: torch.device, ranks: int, collectives: bool = False) -> list[str]:
    """Why the passes of a run cannot be captured.

    Args:
        ranks: of the run.
        collectives: whether the forward pass talks to the other ranks, where that is known yet.
    """
    reasons = []
    if device.type != "cuda":
        reasons.append("this run has no CUDA device")
    if config.zero == 3:
        reasons.append("zero 3 gathers and frees the parameters of each layer within the passes; use zero 0, 1 or 2")
    if ranks > 1 and collectives:
        reasons.append(
            f"the forward pass talks to the other {ranks - 1} ranks (gathered negatives, batch norm over all ranks)"
        )
    if config.gradient_accumulation > 1:
        reasons.append(
            "the parts of an accumulated step (gradient_accumulation) would overwrite the gradients of the part before"
        )
    if config.contrastive_parts > 1:
        reasons.append("the parts of a batch (contrastive_parts) pass the backbones twice, with and without a graph")
    if config.activation_checkpointing:
        reasons.append("activation_checkpointing reads the state of the random generator within the passes")
    return reasons


def capture(
    passes: Callable[..., Any], inputs: tuple[Tensor, ...], **options: Any
) -> Callable[..., tuple[Tensor, ...]]:
    """`torch.cuda.make_graphed_callables`, for a process with other threads: one that asks the driver for something, as
    NCCL's watchdog does, may spoil a capture in PyTorch's mode "global"."""
    graphed: Any = torch.cuda.make_graphed_callables
    mode: dict[str, Any] = {"capture_error_mode": "thread_local"}
    if mode.keys() <= inspect.signature(graphed).parameters.keys():
        return graphed(passes, inputs, **mode, **options)
    graph = torch.cuda.graph
    torch.cuda.graph = partial(graph, **mode)  # type: ignore[assignment, misc]
    try:
        return graphed(passes, inputs, **options)
    finally:
        torch.cuda.graph = graph  # type: ignore[misc]


class Graphed:
    """Stands in for the forward pass of a module that is called with (batch, seed) and returns losses.

    The passes are captured at the first training step, at its shapes. Batches of other shapes, and evaluation, run as
    without graphs. Weights must stay where they are in memory.
    """

    def __init__(self, module: nn.Module, capture: Callable[..., Any] = capture) -> None:
        self._module, self._capture = module, capture
        self._passes = _Passes(module)
        self._weights = {f"module.{name}": p for name, p in module.named_parameters() if p.requires_grad}
        self._captured: Callable[..., tuple[Tensor, ...]] | None = None
        self._shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
        module.forward = self  # type: ignore[assignment, method-assign]

    def __call__(self, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The losses of ``batch``; all but "loss" without gradient."""
        tensors = {name: value for name, value in sorted(batch.items()) if isinstance(value, Tensor)}
        shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
        if self._module.training and self._captured is None:
            self._shapes, self._captured = shapes, self._record(tensors)
        if not self._module.training or self._captured is None or shapes != self._shapes:
            return self._passes.eager(batch, seed)
        return dict(zip(self._passes.losses, self._captured(*tensors.values(), *self._weights.values()), strict=True))

    def _record(self, tensors: dict[str, Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        """Captures both passes. PyTorch runs them a few times before, which must leave no trace in running statistics
        and random generators: a resumed run captures once more.

        Weights are inputs of the graph, as other names for the same memory, so that a replay copies none. Captured
        themselves they would take the stream along on which DeepSpeed first asked for their gradients (PyTorch's
        AccumulateGrad keeps it), and no other stream may wait inside a capture.
        """
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        devices = sorted({value.device.index for value in tensors.values() if value.device.type == "cuda"})
        self._passes.train()
        static = tuple(value.clone() for value in tensors.values())  # what the graph will read
        weights = tuple(weight.detach().requires_grad_() for weight in self._weights.values())

        def passes(*inputs: Tensor) -> tuple[Tensor, ...]:
            batch = dict(zip(tensors, inputs, strict=False))
            return functional_call(self._passes, dict(zip(self._weights, inputs[len(static) :], strict=True)), (batch,))

        with torch.random.fork_rng(devices):
            captured = self._capture(passes, static + weights, allow_unused_input=True)
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                buffer.copy_(buffers[name])
        return captured


class _Passes(nn.Module):
    """A module as PyTorch captures it: from tensors to tensors, and without the hooks of the module itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eager: Callable[..., dict[str, Tensor]] = module.forward
        self.losses: tuple[str, ...] = ()  # of the results

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        losses = self.eager(batch, 0)  # what is drawn is in the batch
        self.losses = tuple(losses)
        return tuple(value if name == "loss" else value.detach() for name, value in losses.items())
