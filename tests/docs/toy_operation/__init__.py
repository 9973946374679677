"""Squared ReLU, the operation that tests/docs/test_contributing.py adds to a copy of the tree."""

from __future__ import annotations

from torch import Tensor

from ..registry import Call, dispatch, refuse_non_float, register
from ..runtime import refuse_triton
from . import op, reference

__all__ = ["squared_relu"]

register("squared_relu", "triton", op.squared_relu, refuse_triton)
register("squared_relu", "torch", reference.squared_relu, refuse_non_float)


def squared_relu(x: Tensor, *, backend: str = "auto") -> Tensor:
    """max(x, 0)^2 of any shape, in the type of x; the square in float32.

    Raises:
        BackendError: the backend cannot run this call.
    """
    return dispatch("squared_relu", backend, Call(x.device, x.dtype))(x)
