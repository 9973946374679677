"""One pre-norm layer of the encoder (`vatt.models.transformer.EncoderLayer`), beside those of other packages.

Ours takes a stream and an update, adds them in its first norm, and returns such a pair. Those of others take the sum
and return the sum, so each makes two residual sums and, in training, drops out the same four tensors: attention
weights, attended tokens, hidden tokens of the MLP, tokens. (Ours drops out the update that comes in, they the one that
goes out.) They get the parameters of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines import need
from bench.cases import base
from bench.cases.base import COMPILE, OURS, TORCH, Baseline, Call, Case, Cost, Draw, Leaves, Problem, Target, ours
from vatt.models.config import TransformerConfig
from vatt.models.transformer import SITES, EncoderLayer

OP = "block"
TIMM, LAYER = "timm", "torch.nn"
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Block(Case):
    op = OP
    outputs = ("stream", "update")
    batch: int
    length: int
    width: int
    heads: int

    def layer(self, backend: str, dropout: float) -> EncoderLayer:
        """On the meta device, in training mode. ``backend`` may be "X+Y": Y for the attention."""
        D, H = self.width, self.heads
        config = TransformerConfig(d_model=D, d_kv=D // H, d_ff=4 * D, num_heads=H, num_layers=1, dropout_rate=dropout)
        rest, _, attention = backend.partition("+")
        with torch.device("meta"):
            layer = EncoderLayer(config, rest)
        if attention:
            layer.attention.backend = attention
        return layer

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        B, N, D = self.batch, self.length, self.width
        found = {"stream": draw.leaf(B, N, D), "update": draw.leaf(B, N, D)}
        for name, x in self.layer(TORCH, 0.0).named_parameters():  # like a trained layer, so biases are not zeros
            std = x.shape[1] ** -0.5 if x.ndim == 2 else 0.1
            found[name] = draw.leaf(*x.shape, std=std, mean=float("norm.weight" in name))
        return found

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, seed: Tensor | None = None) -> Call:
        layer = self.layer(backend, dropout)
        # The leaves themselves become the parameters, so that gradients are asked of the leaves.
        layer.load_state_dict({name: x for name, x in inputs.items() if "." in name}, assign=True)

        def call() -> tuple[Tensor, ...]:
            stream, update, _ = layer(inputs["stream"], inputs["update"], seeds=(seed,) * SITES)
            assert update is not None
            return stream, update

        return call

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """Stream and update go in and come out; between them nothing needs to leave the chip but weights."""
        R, D, s = self.batch * self.length, self.width, self.dtype.itemsize
        dense = 2 * R * (4 * D * D + 8 * D * D)
        scores = 2 * self.batch * self.length**2 * D
        rows, weights = R * D * s, 12 * D * D * s
        forward = Cost(dense + 2 * scores, 4 * rows + weights)
        return forward, Cost(2 * dense + 5 * scores, 6 * rows + 2 * weights)

    def baselines(self) -> dict[str, Baseline]:
        # The same attention on both sides leaves norms and MLP as the difference.
        found = super().baselines()
        found |= {name: Baseline(ours(name), "kernels") for name in (f"{OURS}+sdpa", f"{TORCH}+sdpa")}
        found |= {TIMM: Baseline(partial(self._foreign, timm_block, 1))}
        found |= {LAYER: Baseline(partial(self._foreign, torch_layer, 2))}
        return found | {f"{COMPILE}+sdpa": base.compiled(ours(f"{TORCH}+sdpa"))}

    def expected(self, outputs: tuple[Tensor, ...], want: Leaves) -> list[Tensor]:
        return [want["stream"] + want["update"]] if len(outputs) == 1 else list(want.values())

    def _foreign(
        self, make: Callable[..., nn.Module], column: int, problem: Problem, dropout: float
    ) -> tuple[Call, Leaves]:
        """A layer of others; its leaf "x" is the sum of stream and update, and it returns such a sum."""
        given = problem.leaves
        with torch.device("meta"):
            layer = make(self.width, self.heads, 4 * self.width, dropout, EPSILON)
        leaves: Leaves = {"x": (given["stream"] + given["update"]).detach().requires_grad_()}
        names = {row[0] + kind: row[column] + kind for row in _NAMES for kind in ("weight", "bias")}
        leaves |= {mine: given[mine] for mine in names}
        layer.load_state_dict({theirs: given[mine] for mine, theirs in names.items()}, assign=True)
        return lambda: (layer(leaves["x"]),), leaves


# Names of weight and bias: ours, timm's, PyTorch's.
_NAMES = (
    ("attention_norm.", "norm1.", "norm1."),
    ("attention.qkv_", "attn.qkv.", "self_attn.in_proj_"),
    ("attention.out_", "attn.proj.", "self_attn.out_proj."),
    ("mlp_norm.", "norm2.", "norm2."),
    ("mlp.in_", "mlp.fc1.", "linear1."),
    ("mlp.out_", "mlp.fc2.", "linear2."),
)


def timm_block(width: int, heads: int, inner: int, dropout: float, epsilon: float) -> nn.Module:
    """timm's Block of a vision transformer; (B, N, D) to (B, N, D)."""
    options = dict(mlp_ratio=inner / width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=epsilon))
    options |= dict(proj_drop=dropout, attn_drop=dropout)
    layer: nn.Module = need("timm.models.vision_transformer", "Block")(width, heads, **options)
    return layer


def torch_layer(width: int, heads: int, inner: int, dropout: float, epsilon: float) -> nn.TransformerEncoderLayer:
    """PyTorch's encoder layer, pre-norm; (B, N, D) to (B, N, D)."""
    options: dict[str, Any] = dict(activation="gelu", layer_norm_eps=epsilon, batch_first=True, norm_first=True)
    return nn.TransformerEncoderLayer(width, heads, inner, dropout, **options)


CASES = (
    Block(name="video_785_768", priority=1, batch=64, length=785, width=768, heads=12),
    Block(name="video_785_1024", batch=64, length=785, width=1024, heads=16),
    Block(name="audio_601_768", batch=64, length=601, width=768, heads=12),
    Block(name="video_785_768", size="cpu", priority=1, batch=1, length=785, width=768, heads=12),
    Block(name="video", size="tiny", priority=1, batch=1, length=5, width=16, heads=1),
)
_VIDEO, _SDPA = ("video_785_768",), f"{OURS}+sdpa"
TARGETS = (
    Target("at least 1.6x eager", _VIDEO, 1.6, (TORCH,)),
    Target("at least 1.2x torch.compile", _VIDEO, 1.2, (COMPILE,)),
    Target("at least 1.6x eager, same attention", _VIDEO, 1.6, (f"{TORCH}+sdpa",), ours=_SDPA),
    Target("at least 1.2x base.compiled, same attention", _VIDEO, 1.2, (f"{COMPILE}+sdpa",), ours=_SDPA),
)
