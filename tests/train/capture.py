"""Stands in for `torch.cuda.make_graphed_callables` on a machine without a GPU, and keeps its rules: a few runs before
the capture, inputs copied into the tensors of the capture, and outputs and gradients that each replay writes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Capture:
    """Call it as `torch.cuda.make_graphed_callables`; the graph is the function itself.

    Attributes:
        captures, replays: how many there were.
    """

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, passes: Callable[..., Any], static: tuple[Tensor, ...], allow_unused_input: bool) -> Any:
        assert allow_unused_input
        assert all(isinstance(x, Tensor) and x.is_leaf for x in static)
        self.captures += 1
        trained = [x for x in static if x.requires_grad]
        for _ in range(3):
            outputs = passes(*static)
            wanted = [x for x in outputs if x.requires_grad]
            assert len(wanted) == 1
            torch.autograd.grad(wanted, trained, allow_unused=True)
        results = tuple(x.detach().clone() for x in outputs)
        gradients: dict[int, Tensor] = {}

        class Graph(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
                for own, x in zip(static, inputs, strict=True):
                    # Weights are read where they are; a batch of the same memory could change under the graph.
                    assert (own.data_ptr() == x.data_ptr()) == own.requires_grad
                    if not own.requires_grad:
                        own.copy_(x)
                with torch.enable_grad():
                    ctx.outputs = passes(*static)
                for own, x in zip(results, ctx.outputs, strict=True):
                    own.copy_(x.detach())
                return tuple(x.detach() for x in results)

            @staticmethod
            def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
                ((loss, grad),) = [pair for pair in zip(ctx.outputs, grads, strict=True) if pair[0].requires_grad]
                found = torch.autograd.grad(loss, trained, grad, allow_unused=True)
                for weight, gradient in zip(trained, found, strict=True):
                    if gradient is not None:
                        gradients.setdefault(id(weight), torch.empty_like(gradient)).copy_(gradient)
                kept = [gradients.get(id(x)) for x in static]
                return tuple(x if x is None else x.detach() for x in kept)

        def replay(*given: Tensor) -> tuple[Tensor, ...]:
            self.replays += 1
            assert len(given) == len(static)
            return Graph.apply(*given)

        return replay
