"""One pre-norm layer of other packages, with the parameters of ours (`bench.block`).

Ours takes a stream and an update, adds them in its first norm, and returns such a pair. These take the sum and return
the sum, so each makes two residual sums and, in training, drops out the same four tensors: attention weights, attended
tokens, hidden tokens of the MLP, tokens. (Ours drops out the update that comes in, they the one that goes out.)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from bench.problems import Bound, Leaves, Problem
from bench.rivals.packages import need
from bench.shapes import BlockShape

EPSILON = 1e-6

_TIMM = {
    "attention_norm.weight": "norm1.weight",
    "attention_norm.bias": "norm1.bias",
    "attention.qkv_weight": "attn.qkv.weight",
    "attention.qkv_bias": "attn.qkv.bias",
    "attention.out_weight": "attn.proj.weight",
    "attention.out_bias": "attn.proj.bias",
    "mlp_norm.weight": "norm2.weight",
    "mlp_norm.bias": "norm2.bias",
    "mlp.in_weight": "mlp.fc1.weight",
    "mlp.in_bias": "mlp.fc1.bias",
    "mlp.out_weight": "mlp.fc2.weight",
    "mlp.out_bias": "mlp.fc2.bias",
}
_TORCH = _TIMM | {
    "attention.qkv_weight": "self_attn.in_proj_weight",
    "attention.qkv_bias": "self_attn.in_proj_bias",
    "attention.out_weight": "self_attn.out_proj.weight",
    "attention.out_bias": "self_attn.out_proj.bias",
    "mlp.in_weight": "linear1.weight",
    "mlp.in_bias": "linear1.bias",
    "mlp.out_weight": "linear2.weight",
    "mlp.out_bias": "linear2.bias",
}


def timm_block(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """timm's Block. Returns the sum of stream and update; its leaf "x" is the sum of those that come in.

    Raises:
        ImportError: no timm.
    """
    shape = _shape(problem)
    block = need("timm.models.vision_transformer", "Block")
    with torch.device("meta"):
        layer = block(
            shape.width,
            shape.heads,
            mlp_ratio=4.0,
            qkv_bias=True,
            proj_drop=dropout,
            attn_drop=dropout,
            norm_layer=partial(nn.LayerNorm, eps=EPSILON),
        )
    return _bound(problem, layer, _TIMM)


def torch_layer(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """PyTorch's TransformerEncoderLayer, pre-norm. Returns and takes what `timm_block` does."""
    shape = _shape(problem)
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(
            shape.width,
            shape.heads,
            4 * shape.width,
            dropout,
            activation="gelu",
            layer_norm_eps=EPSILON,
            batch_first=True,
            norm_first=True,
        )
    return _bound(problem, layer, _TORCH)


def _shape(problem: Problem) -> BlockShape:
    assert isinstance(problem.shape, BlockShape)
    return problem.shape


def _bound(problem: Problem, layer: nn.Module, names: Mapping[str, str]) -> tuple[Bound, Leaves]:
    given = problem.leaves
    leaves: Leaves = {"x": (given["stream"] + given["update"]).detach().requires_grad_()}
    for ours, theirs in names.items():
        owner, _, last = theirs.rpartition(".")
        parameters = layer.get_submodule(owner)._parameters
        if parameters[last] is None or parameters[last].shape != given[ours].shape:  # type: ignore[union-attr]
            raise ValueError(f"{type(layer).__name__}.{theirs}: is not of the shape {tuple(given[ours].shape)}")
        # The leaf itself, so that gradients are asked of the leaf.
        parameters[last] = leaves[ours] = given[ours]  # type: ignore[assignment]
    if left := [name for name, parameter in layer.named_parameters() if parameter.is_meta]:
        raise ValueError(f"{type(layer).__name__}: no numbers for {', '.join(left)}")
    layer.train()

    def call() -> tuple[Tensor, ...]:
        return (layer(leaves["x"]),)

    return call, leaves
