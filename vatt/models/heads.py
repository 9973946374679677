"""Projection heads to the common spaces (paper, section 3.4; official modeling/heads/bridge.py).

Shapes: B clips, R rows (clips or sentences), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.distributed import sum_over_ranks
from vatt.models.config import HeadConfig
from vatt.models.layers import Dense, parameter


class BatchNorm(nn.Module):
    """Batch norm of (R, D), with statistics over the rows of all ranks when ``sync`` (official: use_xreplica_bn).

    As Keras, and unlike torch.nn.BatchNorm1d: the biased variance (divided by the number of rows) also goes into the
    running variance; running = momentum * running + (1 - momentum) * batch. It works with gloo on the CPU, with
    gradient through the shared statistics. Statistics and the running buffers are float32, also when the module is
    cast to a half type: a running average would not move in bfloat16.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d_model: int, eps: float = 1e-5, momentum: float = 0.9, sync: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = parameter(d_model)
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))
        self.eps, self.momentum, self.sync = eps, momentum, sync

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, D), of the type of ``x``. Training mode updates the running statistics."""
        if x.ndim != 2:
            raise ValueError(f"BatchNorm: expected (rows, width), got {tuple(x.shape)}")
        x_fp32 = x.to(torch.promote_types(x.dtype, torch.float32))  # float64 stays
        if self.training:
            mean, var = self._statistics(x_fp32)
            self._remember(mean.detach(), var.detach())
        else:
            mean, var = self.running_mean, self.running_var
        normed = (x_fp32 - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics, unless the batch is not finite: a skipped step must leave no trace."""
        finite = torch.isfinite(mean).all() & torch.isfinite(var).all()
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            moved = running.lerp(batch.to(running), 1 - self.momentum)
            running.copy_(torch.where(finite, moved, running))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over the rows; two passes, since E[x^2] - E[x]^2 cancels in float32."""
        if not self.sync:
            return x.mean(0), x.var(0, correction=0)
        sums = sum_over_ranks(torch.cat([x.sum(0), x.new_full((1,), x.shape[0])]))
        mean, rows = sums[:-1] / sums[-1], sums[-1].detach()
        return mean, sum_over_ranks((x - mean).square().sum(0)) / rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self


class ReluDenseBN(nn.Module):
    """(BN,) ReLU, Dense without bias, BN."""

    def __init__(self, d_in: int, d_out: int, config: HeadConfig, pre_bn: bool = False) -> None:
        super().__init__()
        settings = (config.bn_epsilon, config.bn_momentum, config.sync_bn)
        self.pre_bn = BatchNorm(d_in, *settings) if pre_bn else None
        self.dense = Dense(d_in, d_out, bias=False)
        self.bn = BatchNorm(d_out, *settings)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_bn is not None:
            x = self.pre_bn(x)
        return self.bn(self.dense(F.relu(x)))


class FACHead(nn.Module):
    """Fine and coarse spaces: video and audio meet in ``d_va`` dimensions, video and text in ``d_vat``.

    In the paper, every projection is linear and followed by a BN. This follows the official code: video goes through
    two layers, with a ReLU between the first and the second space, and the projections of audio and text have a bias
    and no BN.
    """

    def __init__(self, config: HeadConfig, d_video: int, d_audio: int, d_text: int) -> None:
        super().__init__()
        self.video_to_hidden = Dense(d_video, config.d_va, bias=False)
        self.hidden_to_va = ReluDenseBN(config.d_va, config.d_va, config, pre_bn=True)
        self.va_to_vat = ReluDenseBN(config.d_va, config.d_vat, config)
        self.audio_to_va = Dense(d_audio, config.d_va)
        self.text_to_vat = Dense(d_text, config.d_vat)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ "video" (B, D), "audio" (B, D), "text" (R, D), those given -> embeddings, not normalised."""
        out = {}
        if "video" in features:
            out["video/toaud"] = self.hidden_to_va(self.video_to_hidden(features["video"]))
            out["video/totxt"] = self.va_to_vat(out["video/toaud"])
        if "audio" in features:
            out["audio/tovid"] = self.audio_to_va(features["audio"])
        if "text" in features:
            out["text/tovid"] = self.text_to_vat(features["text"])
        return out


class JointHead(nn.Module):
    """One space of ``d_va`` dimensions for all modalities: ReLU, Dense, BN of each.

    The official head names the pairs with video only; here "audio/totxt" and "text/toaud" are there too (the same
    tensors as "audio/tovid" and "text/tovid"), so that the audio-text pair can be trained.
    """

    def __init__(self, config: HeadConfig, d_video: int, d_audio: int, d_text: int) -> None:
        super().__init__()
        self.video_to_vat = ReluDenseBN(d_video, config.d_va, config)
        self.audio_to_vat = ReluDenseBN(d_audio, config.d_va, config)
        self.text_to_vat = ReluDenseBN(d_text, config.d_va, config)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `FACHead.forward`."""
        out = {}
        if "video" in features:
            out["video/toaud"] = out["video/totxt"] = self.video_to_vat(features["video"])
        if "audio" in features:
            out["audio/tovid"] = out["audio/totxt"] = self.audio_to_vat(features["audio"])
        if "text" in features:
            out["text/tovid"] = out["text/toaud"] = self.text_to_vat(features["text"])
        return out


def build_head(config: HeadConfig, d_video: int, d_audio: int, d_text: int) -> FACHead | JointHead:
    """The head of the configured kind."""
    return (FACHead if config.kind == "fac" else JointHead)(config, d_video, d_audio, d_text)
