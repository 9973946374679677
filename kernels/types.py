"""Types of an operation's tensors: one for all, which autocast chooses where it is on, else mixed types are refused.

Kernels would mix them in silence, or fail in their compiler. So every public function calls one of these before it
selects a backend, and all backends see the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What autocast lowers products on ``device`` to, or None where it is off."""
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def of_a_product(op: str, **tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors of a matrix product, all of one type: under autocast its type (float64 stays, as in PyTorch), else
    that of the first.

    Raises:
        ValueError: types that differ, without autocast; the message names the argument.
    """
    found = tuple(tensors.values())
    first = found[0]
    assert first is not None
    lower = autocast_type(first.device)
    if lower is not None and all(x is None or x.dtype != torch.float64 for x in found):
        return tuple([None if x is None else x.to(lower) for x in found])
    check_types(op, first.dtype, tensors)
    return found


def of_a_norm(op: str, x: Tensor, residual: Tensor | None, **parameters: Tensor) -> tuple[Any, ...]:
    """x, the residual and the parameters, all of one type: x and the residual meet in the wider of their types, which
    the parameters must have. Under autocast norms are computed in float32 or wider, as in PyTorch.

    Raises:
        ValueError: parameters of another type, without autocast; the message names the argument.
    """
    wide = x.dtype if residual is None or residual.dtype == x.dtype else torch.promote_types(x.dtype, residual.dtype)
    if autocast_type(x.device) is not None:
        for parameter in parameters.values():
            wide = torch.promote_types(wide, parameter.dtype)
        wide = torch.promote_types(wide, torch.float32)
        parameters = {name: parameter.to(wide) for name, parameter in parameters.items()}
    check_types(op, wide, parameters)
    if x.dtype != wide:
        x = x.to(wide)
    if residual is not None and residual.dtype != wide:
        residual = residual.to(wide)
    return x, residual, *parameters.values()


def check_types(op: str, wanted: torch.dtype, tensors: Mapping[str, Tensor | None]) -> None:
    """Raises ValueError for the first tensor of another type."""
    for name, x in tensors.items():
        if x is not None and x.dtype != wanted:
            raise ValueError(
                f"{op}: {name} is {x.dtype}, but the others are {wanted}: cast one, or call it under torch.autocast"
            )
