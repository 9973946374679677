"""Complete pretraining models that a user would build without this project, of the sizes of a preset.

Depths, widths, heads, MLPs, word vectors and kept tokens are those of the configuration, and so are the rates of
dropout; what differs is said in the file of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from bench.rivals.plain import plain_pytorch
from bench.rivals.with_timm import timm_model
from bench.rivals.with_transformers import transformers_model
from vatt.models.config import VATTConfig

_MODELS: dict[str, Callable[[VATTConfig], nn.Module]] = {
    "plain PyTorch": plain_pytorch,
    "timm": timm_model,
    "transformers": transformers_model,
}


def models(config: VATTConfig) -> dict[str, Callable[[], nn.Module]]:
    """Constructors by name; empty where `missing` says that there are none.

    A model is called with video, uint8 (B, T, H, W, 3), audio, floating point (B, L), and text, integer word ids
    (B, C, W), 0 = padding, and returns a scalar loss, in float32 or wider. A constructor raises ImportError that names
    the package if it is missing.
    """
    if missing(config):
        return {}
    return {name: partial(make, config) for name, make in _MODELS.items()}


def missing(config: VATTConfig) -> str | None:
    """Why no rival has these sizes, with the field that says so; None if they can be built."""
    if config.backbone != "separate":
        return f"backbone {config.backbone!r}: none of the rivals has one shared backbone"
    if config.audio_input != "waveform":
        return f"audio_input {config.audio_input!r}: the rivals read waveforms"
    if config.text.kind != "t5":
        return f"text.kind {config.text.kind!r}: the rivals have T5's sizes"
    if config.head.kind != "fac" or config.loss.aud_txt_weight > 0:
        return f"head.kind {config.head.kind!r}: the rivals pair video with audio and video with text only"
    for section in ("video", "waveform", "text"):
        part = getattr(config, section)
        if part.num_heads * part.d_kv != part.d_model:
            return f"{section}.d_kv: the rivals' heads together are as wide as the model"
        if getattr(part, "pre_projection", False) or getattr(part, "post_projection", False) or not part.pre_norm:
            return f"{section}: the rivals are pre-norm, without projections around the encoder"
    return None
