"""The two-layer perceptron of a Transformer layer."""

from __future__ import annotations

import math

from torch import Tensor

from ..cpu import refuse_cpu
from ..dropout import check_dropout
from ..registry import Call, dispatch, gradient, refuse_non_float, register
from ..runtime import refuse_triton
from ..types import of_a_product
from . import cpu, op, reference

__all__ = ["dense_gelu", "mlp"]

register("mlp", "triton", op.mlp, refuse_triton)
register("mlp", "triton_gemm", op.mlp_gemm, refuse_triton)
register("mlp", "cpu", cpu.mlp, refuse_cpu)
register("mlp", "torch", reference.mlp, refuse_non_float)
register("dense_gelu", "triton", op.dense_gelu, refuse_triton)
register("dense_gelu", "torch", reference.dense_gelu, refuse_non_float)


def mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    *,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """dropout(gelu(x W_in^T + b_in)) W_out^T + b_out, with the exact (erf) GELU.

    Args:
        x: (..., D).
        weight_in: (M, D); bias_in: (M,) or None.
        weight_out: (D, M); bias_out: (D,) or None.
        dropout_p: dropout of the activation.
        seed: (1,) or longer, int64, of which the first number counts. The mask of the dropout is a function of it, the
            same in all backends. None draws one from PyTorch's generator.
        backend: "auto", "triton" (cuBLAS's products; bias, GELU and dropout in one pass between them), "triton_gemm"
            (the first product in Triton too, that pass on its accumulators), "cpu" (as "triton", on blocks in the cache
            of a CPU) or "torch".

    Returns:
        (..., D), of the type of all inputs; under autocast of its type.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    M, D = _check_layer(x, weight_in, bias_in, "weight_in", "bias_in")
    if weight_out.ndim != 2 or weight_out.shape[1] != M:
        raise ValueError(f"weight_out: expected (D, {M}), got {tuple(weight_out.shape)}")
    if bias_out is not None and bias_out.shape != weight_out.shape[:1]:
        raise ValueError(f"bias_out: expected ({weight_out.shape[0]},), got {tuple(bias_out.shape)}")
    check_dropout("mlp", dropout_p, seed, x.device)
    given = of_a_product("mlp", x=x, weight_in=weight_in, bias_in=bias_in, weight_out=weight_out, bias_out=bias_out)
    facts = {"width": D, "inner": M, "bias": bias_in is not None, "dropout": dropout_p}
    facts["gradient"] = gradient(x, weight_in)
    call = Call(x.device, given[0].dtype, facts, count=math.prod(x.shape[:-1]))
    return dispatch("mlp", backend, call)(*given, dropout_p, seed)


def dense_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str = "auto") -> Tensor:
    """gelu(x W^T + b), with the exact (erf) GELU.

    Args:
        x: (..., D).
        weight: (M, D); bias: (M,) or None.
        backend: "auto", "triton" (cuBLAS's product; bias and GELU in one pass) or "torch".

    Returns:
        (..., M), of the type of all inputs; under autocast of its type.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    M, D = _check_layer(x, weight, bias, "weight", "bias")
    given = of_a_product("dense_gelu", x=x, weight=weight, bias=bias)
    facts = {"width": D, "inner": M, "bias": bias is not None, "gradient": gradient(x, weight)}
    call = Call(x.device, given[0].dtype, facts, count=math.prod(x.shape[:-1]))
    return dispatch("dense_gelu", backend, call)(*given)


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, *names: str) -> tuple[int, int]:
    """M and D of a layer. A bias that broadcasts is refused too: a kernel would read past its end."""
    if weight.ndim != 2:
        raise ValueError(f"{names[0]}: expected (M, D), got {tuple(weight.shape)}")
    M, D = weight.shape
    if x.ndim == 0 or x.shape[-1] != D:
        raise ValueError(f"x: expected (..., {D}), got {tuple(x.shape)}")
    if bias is not None and bias.shape != (M,):
        raise ValueError(f"{names[1]}: expected {(M,)}, got {tuple(bias.shape)}")
    return M, D
