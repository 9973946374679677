"""Backends with one fault each, for the tests of the choice. Importing this registers them, as "planted NAME" of
attention; worker processes import it, too."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

from vatt.kernels.attention import reference
from vatt.kernels.attention.varlen import by_segment
from vatt.kernels.registry import _OPERATIONS, register

OPS = ("attention", "packed_attention")


class _Spoiled(torch.autograd.Function):
    """Its input, and another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _attention(spoil_forward=1.0, spoil_gradient=1.0, only_with_dropout=False, also=lambda: None):
    def run(q, k, v, mask, bias, scale, p, seed=None, place=None):
        also()
        if not only_with_dropout or p > 0:
            v = _Spoiled.apply(v, spoil_gradient)
        out, weights = reference.attention(q, k, v, mask, bias, scale, p, seed, place)
        return (out if only_with_dropout and p == 0 else out * spoil_forward), weights

    return run


def other_mask_backwards(q, k, v, mask, bias, scale, p, seed=None, place=None):
    """Drops other weights in the backward pass of the values."""
    out, weights = reference.attention(q, k, v, mask, bias, scale, p, seed, place)
    other = None if seed is None else seed + 1
    fixed = None if bias is None else bias.detach()
    wrong, _ = reference.attention(q.detach(), k.detach(), v, mask, fixed, scale, p, other, place)
    right, _ = reference.attention(q, k, v.detach(), mask, bias, scale, p, seed, place)
    return (wrong - wrong.detach()) + (right - right.detach()) + out.detach(), weights


def _fail(how: BaseException) -> Any:
    raise how


BACKENDS = {
    "slow": _attention(also=lambda: time.sleep(0.05)),
    "wrong": _attention(spoil_forward=1.05),
    "gradient": _attention(spoil_gradient=1.05),
    "nan": _attention(spoil_forward=float("nan")),
    "dropout": _attention(spoil_forward=1.05, only_with_dropout=True),
    "mask": other_mask_backwards,
    "raises": _attention(also=lambda: _fail(RuntimeError("no kernel image"))),
    "compiler": _attention(also=lambda: _fail(SyntaxError("ptxas said no"))),
    "hangs": _attention(also=lambda: time.sleep(600)),
    "dies": _attention(also=lambda: os._exit(7)),
}


def plant(*names: str, twin: bool = True, first: bool = False) -> None:
    """Registers "planted NAME" for each name, behind all others or before them."""
    for op in OPS:
        before = dict(_OPERATIONS[op])
        for name in names:
            run = BACKENDS[name]
            run = run if op == "attention" else by_segment(run)
            register(op, f"planted {name}", run, lambda call: [], twin=twin)
        if first:
            for name in before:
                _OPERATIONS[op][name] = _OPERATIONS[op].pop(name)


def uproot() -> None:
    """Removes all of them."""
    for op in OPS:
        for name in [name for name in _OPERATIONS[op] if name.startswith("planted ")]:
            del _OPERATIONS[op][name]


if os.environ.get("PLANT"):  # in a worker process
    plant(*os.environ["PLANT"].split(","))
