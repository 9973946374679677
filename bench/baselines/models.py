"""Complete pretraining models that a user would build without this project, of the sizes of a preset.

Depths, widths, heads, MLPs, word vectors and kept tokens are those of the configuration, and so are the rates of
dropout. All embed every patch with a strided convolution before DropToken throws half of them away, and their heads
have no batch norms. Besides:

- plain PyTorch: nn.TransformerEncoder with its SDPA, a CLS token; the text encoder has learned positions in place of
  T5's relative ones, and biases and layer norms.
- timm: its Blocks, and its PatchDropout, which keeps other patches for each item, as many as ours; dropout of the
  positions is before it, on all patches, as in timm's VisionTransformer. The text encoder is PyTorch's.
- transformers: VideoMAE, its encoder layers on patches of sound, and T5, all with SDPA. VideoMAE has fixed positions,
  no CLS token (its tokens are averaged) and no dropout of the positions; its layers, also those for sound, have no bias
  of the keys and no dropout inside the MLP; T5 has RMS norms throughout.

Shapes: B clips, R sentences (B * C, C candidates a clip), W words, N patches, K of them kept, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import need
from bench.cases.block import timm_block, torch_layer
from bench.cases.nce import clip_style
from bench.cases.patch_embed import ConvTokens, channels_first, patch_dropout
from vatt.analysis.flops import Tokens, tokens
from vatt.models.config import TextConfig, TransformerConfig, VATTConfig

Encoders = tuple[nn.Module, nn.Module, nn.Module]  # of video, sound and text


def models(config: VATTConfig) -> dict[str, Callable[[], nn.Module]]:
    """Constructors by name; empty where `missing` says that there are none.

    A model is called with video, uint8 (B, T, H, W, 3), audio, floating point (B, L), and text, integer word ids
    (B, C, W), 0 = padding, and returns a scalar loss, in float32 or wider. In training mode DropToken and dropout are
    on. A constructor raises ImportError that names the package if it is missing.
    """
    if missing(config):
        return {}
    encoders = {"plain PyTorch": _plain, "timm": _timm, "transformers": _transformers}
    return {name: partial(Pretrained, config, made) for name, made in encoders.items()}


def missing(config: VATTConfig) -> str | None:
    """Why no baseline has these sizes, with the field that says so; None if they can be built."""
    if config.backbone != "separate":
        return f"backbone {config.backbone!r}: the baselines have a Transformer for each modality"
    if config.audio_input != "waveform":
        return f"audio_input {config.audio_input!r}: the baselines read waveforms"
    if config.text.kind != "t5":
        return f"text.kind {config.text.kind!r}: the baselines have T5's sizes"
    if config.head.kind != "fac" or config.loss.aud_txt_weight > 0:
        return f"head.kind {config.head.kind!r}: the baselines pair video with audio and video with text only"
    for section in ("video", "waveform", "text"):
        part = getattr(config, section)
        if part.num_heads * part.d_kv != part.d_model:
            return f"{section}.d_kv: the baselines' heads together are as wide as the model"
        if getattr(part, "pre_projection", False) or getattr(part, "post_projection", False) or not part.pre_norm:
            return f"{section}: the baselines are pre-norm, without projections around the encoder"
    return None


@dataclass(frozen=True)
class Signal:
    """Video or sound: patch, encoder, and how many patches there are and DropToken keeps."""

    patch: tuple[int, ...]
    encoder: TransformerConfig
    count: Tokens

    def draw(self, device: torch.device) -> Tensor:
        """Indices of the kept patches (K,), one draw a batch."""
        return torch.randperm(self.count.total, device=device)[: self.count.kept]


def _signals(config: VATTConfig) -> tuple[Signal, Signal]:
    video, audio, counts = config.video, config.waveform, tokens(config)
    patch = (video.temporal_patch_size, video.spatial_patch_size, video.spatial_patch_size)
    return Signal(patch, video, counts["video"]), Signal((audio.temporal_patch_size,), audio, counts["audio"])


class SignalEncoder(nn.Module):
    """Video (B, T, H, W, 3) or sound (B, L) -> (B, D): `ConvTokens` through ``layers`` and a final norm; the CLS token.

    ``drop``: drops tokens in training; by default all clips keep the patches of one draw.
    """

    def __init__(self, signal: Signal, layers: nn.Module, drop: nn.Module | None = None) -> None:
        super().__init__()
        part = signal.encoder
        self.signal, self.draws = signal, drop is None and signal.count.kept < signal.count.total
        self.tokens = ConvTokens(signal.patch, signal.count.total, part.d_model, part.position_dropout_rate, drop)
        self.layers, self.norm = layers, nn.LayerNorm(part.d_model, part.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.signal.draw(x.device) if self.training and self.draws else None
        x = self.layers(self.tokens(x, kept))
        return self.norm(getattr(x, "last_hidden_state", x))[:, 0]  # as layers of transformers return it


class Sentences(nn.Module):
    """(R, W) word ids -> (R, D): word vectors as wide as ours, frozen if ours are, a GELU projection, a CLS token, and
    ``encoder``: T5's, or with learned positions of ``words`` words PyTorch's."""

    def __init__(self, config: TextConfig, encoder: nn.Module, words: int = 0) -> None:
        super().__init__()
        D = config.d_model
        self.table = nn.Embedding(config.vocab_size, config.d_embedding)
        self.table.weight.requires_grad_(config.trainable_embeddings)
        self.project = nn.Linear(config.d_embedding, D)
        self.token = nn.Parameter(0.02 * torch.randn(D))
        self.positions = nn.Parameter(0.02 * torch.randn(words, D)) if words else None
        self.dropout, self.encoder = nn.Dropout(config.dropout_rate), encoder

    def forward(self, ids: Tensor) -> Tensor:
        x = F.gelu(self.project(self.table(ids)))
        if self.positions is not None:
            x = x + self.positions
        x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)
        present = F.pad(ids != 0, (1, 0), value=True)  # (R, 1 + W)
        if self.positions is not None:
            return self.encoder(self.dropout(x), src_key_padding_mask=~present)[:, 0]
        return self.encoder(inputs_embeds=x, attention_mask=present.long()).last_hidden_state[:, 0]


class Pretrained(nn.Module):
    """Three encoders, the spaces of our head (`vatt.models.heads.FACHead`) by plain MLPs, and two losses, all logits in
    memory."""

    def __init__(self, config: VATTConfig, encoders: Callable[[VATTConfig], Encoders]) -> None:
        super().__init__()
        self.video, self.audio, self.text = encoders(config)
        va, vat = config.head.d_va, config.head.d_vat
        self.video_to_va = nn.Sequential(nn.Linear(config.video.d_model, va), nn.GELU(), nn.Linear(va, va))
        self.va_to_vat = nn.Sequential(nn.GELU(), nn.Linear(va, vat))
        self.audio_to_va = nn.Linear(config.waveform.d_model, va)
        self.text_to_vat = nn.Linear(config.text.d_model, vat)
        self.temperature = config.loss.temperature
        self.weights = config.loss.vid_aud_weight, config.loss.vid_txt_weight

    def forward(self, video: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """(B, T, H, W, 3), (B, L), (B, C, W) -> scalar."""
        fine = self.video_to_va(self.video(video))
        sound = clip_style(_unit(fine), _unit(self.audio_to_va(self.audio(audio))), self.temperature)
        sentences = self.text_to_vat(self.text(text.flatten(0, 1)))
        words = mil_nce(_unit(self.va_to_vat(fine)), _unit(sentences), self.temperature)
        return (self.weights[0] * sound + self.weights[1] * words) / sum(self.weights)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def mil_nce(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """MIL-NCE (Miech et al., CVPR 2020) of unit rows (B, D) and (B * C, D): all candidates of a clip are its positives.
    As its authors' code, it counts them in the denominator for rows and columns."""
    B = len(video)
    logits = (video @ text.T / temperature).view(B, B, -1)
    items = torch.arange(B, device=logits.device)
    positive = logits[items, items].logsumexp(1)
    both = torch.cat([logits, logits.transpose(0, 1)], dim=1).flatten(1)
    return (both.logsumexp(1) - positive).mean()


def _sizes(part: TransformerConfig | TextConfig) -> tuple[int, int, int, float, float]:
    """Of a layer."""
    return part.d_model, part.num_heads, part.d_ff, part.dropout_rate, part.layer_norm_epsilon


def _torch_encoder(part: TransformerConfig | TextConfig, norm: nn.Module | None = None) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(torch_layer(*_sizes(part)), part.num_layers, norm, enable_nested_tensor=False)


def _torch_text(config: VATTConfig) -> Sentences:
    part = config.text
    encoder = _torch_encoder(part, nn.LayerNorm(part.d_model, part.layer_norm_epsilon))
    return Sentences(part, encoder, config.input.words)


def _plain(config: VATTConfig) -> Encoders:
    video, audio = (SignalEncoder(signal, _torch_encoder(signal.encoder)) for signal in _signals(config))
    return video, audio, _torch_text(config)


def _timm(config: VATTConfig) -> Encoders:
    def encoder(signal: Signal) -> SignalEncoder:
        part, drop = signal.encoder, patch_dropout(signal.count.kept, signal.count.total)
        return SignalEncoder(signal, nn.Sequential(*(timm_block(*_sizes(part)) for _ in range(part.num_layers))), drop)

    video, audio = map(encoder, _signals(config))
    return video, audio, _torch_text(config)


def _videomae(part: TransformerConfig, **sizes: int) -> Any:
    """VideoMAEConfig with the sizes of an encoder."""
    return need("transformers", "VideoMAEConfig")(
        **sizes,
        use_mean_pooling=False,
        hidden_size=part.d_model,
        num_hidden_layers=part.num_layers,
        num_attention_heads=part.num_heads,
        intermediate_size=part.d_ff,
        hidden_act="gelu",
        hidden_dropout_prob=part.dropout_rate,
        attention_probs_dropout_prob=part.dropout_rate,
        layer_norm_eps=part.layer_norm_epsilon,
        attn_implementation="sdpa",
    )


class MaskedVideo(nn.Module):
    """VideoMAEModel with bool_masked_pos for DropToken: uint8 (B, T, H, W, 3) -> (B, D)."""

    def __init__(self, config: VATTConfig, signal: Signal) -> None:
        super().__init__()
        part, spec = config.video, config.input
        sizes = dict(image_size=spec.size, patch_size=part.spatial_patch_size)
        sizes |= dict(num_frames=spec.frames, tubelet_size=part.temporal_patch_size)
        self.model = need("transformers", "VideoMAEModel")(_videomae(part, **sizes))
        self.signal = signal

    def forward(self, video: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        frames = channels_first(video, dtype).transpose(1, 2)  # (B, T, 3, H, W)
        mask = None  # (B, N), True for the patches that are left out
        if self.training and self.signal.count.kept < self.signal.count.total:
            mask = torch.ones(self.signal.count.total, dtype=torch.bool, device=video.device)
            mask[self.signal.draw(video.device)] = False
            mask = mask.expand(len(video), -1)
        return self.model(frames, bool_masked_pos=mask).last_hidden_state.mean(1)


def _t5(part: TextConfig) -> Any:
    same = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "layer_norm_epsilon")
    options = need("transformers", "T5Config")(
        vocab_size=2,  # its own table is not used
        **{name: getattr(part, name) for name in same},
        relative_attention_num_buckets=part.num_relative_buckets,
        relative_attention_max_distance=part.max_relative_distance,
        feed_forward_proj="gelu",
        attn_implementation="sdpa",
    )
    model = need("transformers", "T5EncoderModel")(options)
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


def _transformers(config: VATTConfig) -> Encoders:
    video, audio = _signals(config)
    layers = need("transformers.models.videomae.modeling_videomae", "VideoMAEEncoder")(_videomae(audio.encoder))
    return MaskedVideo(config, video), SignalEncoder(audio, layers), Sentences(config.text, _t5(config.text))
