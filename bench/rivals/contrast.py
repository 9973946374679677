"""Projection heads and contrastive losses as they are usually written: all logits in memory.

Shapes: B clips, C candidate sentences a clip, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.config import VATTConfig


class Contrast(nn.Module):
    """The spaces of our head (`vatt.models.heads.FACHead`) by plain MLPs, without its batch norms, and two losses."""

    def __init__(self, config: VATTConfig) -> None:
        super().__init__()
        va, vat = config.head.d_va, config.head.d_vat
        self.video_to_va = nn.Sequential(nn.Linear(config.video.d_model, va), nn.GELU(), nn.Linear(va, va))
        self.va_to_vat = nn.Sequential(nn.GELU(), nn.Linear(va, vat))
        self.audio_to_va = nn.Linear(config.waveform.d_model, va)
        self.text_to_vat = nn.Linear(config.text.d_model, vat)
        self.temperature = config.loss.temperature
        self.weights = config.loss.vid_aud_weight, config.loss.vid_txt_weight

    def forward(self, video: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """(B, D), (B, D) and (B * C, D, the candidate fastest) -> a scalar in float32 or wider."""
        fine = self.video_to_va(video)
        sound = clip_style(_unit(fine), _unit(self.audio_to_va(audio)), self.temperature)
        words = mil_nce(_unit(self.va_to_vat(fine)), _unit(self.text_to_vat(text)), self.temperature)
        return (self.weights[0] * sound + self.weights[1] * words) / sum(self.weights)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def clip_style(video: Tensor, audio: Tensor, temperature: float) -> Tensor:
    """A cross-entropy each way, of unit rows (B, D): the loss of CLIP."""
    logits = video @ audio.T / temperature
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def mil_nce(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """MIL-NCE (Miech et al., CVPR 2020) of unit rows (B, D) and (B * C, D): all candidates of a clip are its positives.
    As its authors' code, it counts them in the denominator for rows and columns."""
    B = len(video)
    logits = (video @ text.T / temperature).view(B, B, -1)
    items = torch.arange(B, device=logits.device)
    positive = logits[items, items].logsumexp(1)
    both = torch.cat([logits, logits.transpose(0, 1)], dim=1).flatten(1)
    return (both.logsumexp(1) - positive).mean()
