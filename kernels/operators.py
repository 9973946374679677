"""Operators with gradients, called the cheap way in eager mode and as custom operators where PyTorch traces.

A custom operator of `torch.library` costs about four times the host time of a `torch.autograd.Function`, which a step
with some hundred operations feels. But torch.compile, export and fake tensors can only see a custom operator. So an
`Operator` is both, made of the same functions, and chooses by what it is called with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


class Operator:
    """``run``, on real tensors directly; on all others as the custom operator ``name`` with ``schema``.

    Args:
        name: with its namespace, "vatt_kernels::NAME".
        schema: in PyTorch's language, such as "(Tensor x, float p) -> Tensor". The first argument is a tensor.
        run: computes on real tensors.
        fake: gives tensors like those of ``run``, without content.
    """

    def __init__(self, name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
        self._run = run
        self._custom = torch.library.custom_op(name, run, mutates_args=(), schema=schema)
        self._custom.register_fake(fake)
        self._apply: Callable[..., Any] | None = None

    def gradient(self, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
        """Adds the gradient: ``setup`` (its parameters are named ctx, inputs and output) saves, ``backward`` (ctx, *the
        gradients of the outputs) gives one gradient an input. Where that calls an operator without a gradient of its
        own, a second derivative raises."""
        self._custom.register_autograd(backward, setup_context=setup)

        run = self._run

        class Function(torch.autograd.Function):
            # In one piece: with a `setup_context`, PyTorch binds the arguments to the signature at each call.
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = run(*args)
                setup(ctx, args, output)
                return output

        Function.__name__ = run.__name__
        Function.backward = staticmethod(backward)  # type: ignore[assignment]
        self._apply = Function.apply

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or type(args[0]) not in _PLAIN:
            return self._custom(*args)
        if self._apply is not None:
            return self._apply(*args)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args):
            return self._custom(*args)  # raises where the result is differentiated; ``run`` would give a constant
        return self._run(*args)


def operator(name: str, schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Operator]:
    """A decorator that makes an `Operator` of the function that computes it."""
    return lambda run: Operator(name, schema, run, fake)
