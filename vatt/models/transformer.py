"""The Transformer encoder of all backbones: pre-norm (ViT), post-norm (bert_small) and T5.

Shapes: B batch, N tokens, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vatt.kernels import Call
from vatt.kernels.cpu import refuse_cpu
from vatt.kernels.dropout import draw_seeds
from vatt.models.config import TextConfig, TransformerConfig
from vatt.models.layers import MLP, Attention, LayerNorm, Packing, RMSNorm, embedding_uniform

SITES = 4  # of dropout in a layer
Seeds = Sequence[Tensor | None]


def relative_buckets(length: int, num_buckets: int, max_distance: int, device: torch.device | None = None) -> Tensor:
    """Bucket of each (query, key) pair, int64 (length, length).

    Half of the buckets are for keys to the right of the query (the upper half) and half for the others. The lower half
    of each direction is exact, the rest is logarithmic up to ``max_distance``, and clamped.
    """
    position = torch.arange(length, device=device)
    offset = position[None, :] - position[:, None]
    direction = num_buckets // 2
    exact = direction // 2
    distance = offset.abs()
    # In float32, like the official code: a logarithm that lands beside an integer picks the bucket.
    ratio = (distance.to(torch.float32) / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (direction - exact)).to(torch.int64)).clamp(max=direction - 1)
    return torch.where(distance < exact, distance, far) + direction * (offset > 0)


class RelativeBias(nn.Module):
    """T5's relative position bias: one learned number for each bucket and head (official .../backbones/text/t5.py)."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = nn.Parameter(embedding_uniform(torch.empty(num_buckets, num_heads)))

    def forward(self, length: int) -> Tensor:
        """(H, length, length), to be added to the attention scores."""
        buckets = relative_buckets(length, self.num_buckets, self.max_distance, self.table.device)
        return self.table[buckets].permute(2, 0, 1)


class EncoderLayer(nn.Module):
    """Attention and MLP, each with its norm, dropout and residual sum.

    Dropout and residual sum are made by the norm that reads the sum. So a layer takes and returns a pair: the residual
    stream, and the update that the next norm drops out and adds to it.
    """

    def __init__(self, config: TransformerConfig, backend: str = "auto", t5: bool = False) -> None:
        super().__init__()
        D, eps, rate = config.d_model, config.layer_norm_epsilon, config.dropout_rate
        use_bias = config.use_bias and not t5
        scale = 1.0 if t5 else config.d_kv**-0.5
        self.pre_norm = config.pre_norm or t5
        self.attention_norm = RMSNorm(D, eps, backend) if t5 else LayerNorm(D, eps, backend)
        self.attention = Attention(D, config.d_kv, config.num_heads, use_bias, rate, scale, backend)
        self.mlp_norm = LayerNorm(D, eps, backend)
        self.mlp = MLP(D, config.d_ff, use_bias, rate, backend)
        self.dropout = rate

    def forward(
        self,
        stream_BND: Tensor,
        update_BND: Tensor | None,
        mask_BN: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        packing: Packing | None = None,
        return_weights: bool = False,
        seeds: Seeds = (None,) * SITES,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """New stream, new update (None after a post-norm layer), attention weights (B, H, N, N) or None. ``seeds``: of
        the dropout in front of the first norm, in the attention, in front of the second norm and in the MLP."""
        rate = self.dropout if self.training else 0.0
        of_first_norm, of_attention, of_second_norm, of_mlp = seeds
        if not self.pre_norm:
            attended_BND, weights = self.attention(stream_BND, mask_BN, bias_HNN, packing, return_weights, of_attention)
            _, normed_BND = self.attention_norm(stream_BND, attended_BND, rate, of_first_norm)
            _, stream_BND = self.mlp_norm(normed_BND, self.mlp(normed_BND, of_mlp), rate, of_second_norm)
            return stream_BND, None, weights
        stream_BND, normed_BND = self.attention_norm(stream_BND, update_BND, rate, of_first_norm)
        attended_BND, weights = self.attention(normed_BND, mask_BN, bias_HNN, packing, return_weights, of_attention)
        stream_BND, normed_BND = self.mlp_norm(stream_BND, attended_BND, rate, of_second_norm)
        return stream_BND, self.mlp(normed_BND, of_mlp), weights


class Encoder(nn.Module):
    """A stack of layers and, if pre-norm, a final norm and dropout (official modeling/common/transformers.py).

    With a T5 configuration (official modeling/backbones/text/t5.py): RMS norms before attention and at the end, but a
    full layer norm before the MLP (unlike T5); no biases, no scaling of the scores, dropout of the input; and one table
    of relative position biases whose bias enters every layer (the paper has it in the first layer only).
    """

    def __init__(self, config: TransformerConfig, backend: str = "auto") -> None:
        super().__init__()
        t5 = False
        self.relative_bias: RelativeBias | None = None
        if isinstance(config, TextConfig) and config.kind == "t5":
            t5 = True
            buckets, distance = config.num_relative_buckets, config.max_relative_distance
            self.relative_bias = RelativeBias(buckets, distance, config.num_heads)
        self.layers = nn.ModuleList(EncoderLayer(config, backend, t5) for _ in range(config.num_layers))
        self.final_norm: nn.Module | None = None
        if t5 or config.pre_norm:
            norm = RMSNorm if t5 else LayerNorm
            self.final_norm = norm(config.d_model, config.layer_norm_epsilon, backend)
        self.dropout, self.backend = config.dropout_rate, backend
        self.activation_checkpointing = False

    def forward(
        self,
        x_BND: Tensor,
        mask_BN: Tensor | None = None,
        packing: Packing | None = None,
        return_weights: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encodes tokens.

        Args:
            x_BND: (B, N, D).
            mask_BN: (B, N), nonzero for tokens that may be attended to; None for all.
            packing: the sequences in the N tokens of a batch of 1, which do not see each other; not with T5.
            return_weights: also return the attention weights (B, H, N, N) of each layer (slower).

        Returns:
            (B, N, D) and the list of weights, empty if not asked for.
        """
        bias_HNN = None
        if self.relative_bias is not None:
            bias_HNN = self.relative_bias(x_BND.shape[1])
            x_BND = self._drop(x_BND)
        stream_BND, update_BND, all_weights = x_BND, None, []
        seeds = self._draw_seeds(x_BND)
        for number, layer in enumerate(self.layers):
            own = seeds[SITES * number : SITES * (number + 1)]
            inputs = stream_BND, update_BND, mask_BN, bias_HNN, packing, return_weights, own
            if self.activation_checkpointing and self.training:
                stream_BND, update_BND, weights = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                stream_BND, update_BND, weights = layer(*inputs)
            if return_weights:
                all_weights.append(weights)
        if self.final_norm is None:
            return stream_BND, all_weights
        rate = self.dropout if self.training else 0.0
        _, normed_BND = self.final_norm(stream_BND, update_BND, rate, seeds[-1])
        return self._drop(normed_BND), all_weights

    def _draw_seeds(self, x_BND: Tensor) -> Seeds:
        """A seed for each site of dropout: four a layer, and the final norm's. One launch draws all of them; the
        operations would draw one each. The plain operations of PyTorch draw their masks from its generator, which is
        faster there than the mask of ours."""
        count, device = SITES * len(self.layers) + 1, x_BND.device
        plain = self.backend == "torch" or device.type == "meta"
        if self.backend == "auto" and device.type == "cpu":
            plain = bool(refuse_cpu(Call(device, x_BND.dtype)))
        if plain or not self.training or self.dropout == 0:
            return (None,) * count
        return draw_seeds(count, device)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout > 0 else x
