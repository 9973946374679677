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

from bench.baselines.packages import need
from bench.cases.patch_embed import channels_first, patch_dropout_rate
from vatt.analysis.flops import tokens
from vatt.models.config import TextConfig, TransformerConfig, VATTConfig


def models(config: VATTConfig) -> dict[str, Callable[[], nn.Module]]:
    """Constructors by name; empty where `missing` says that there are none.

    A model is called with video, uint8 (B, T, H, W, 3), audio, floating point (B, L), and text, integer word ids
    (B, C, W), 0 = padding, and returns a scalar loss, in float32 or wider. In training mode DropToken and dropout are
    on. A constructor raises ImportError that names the package if it is missing.
    """
    if missing(config):
        return {}
    made = {"plain PyTorch": _plain, "timm": _timm, "transformers": _transformers}
    return {name: partial(make, config) for name, make in made.items()}


def missing(config: VATTConfig) -> str | None:
    """Why no baseline has these sizes, with the field that says so; None if they can be built."""
    if config.backbone != "separate":
        return f"backbone {config.backbone!r}: none of the baselines has one shared backbone"
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
    """Video or sound: channels, patch, encoder, number of patches and of those that DropToken keeps."""

    channels: int
    patch: tuple[int, ...]
    encoder: TransformerConfig
    total: int
    kept: int


def _signals(config: VATTConfig) -> tuple[Signal, Signal]:
    video, audio, counts = config.video, config.waveform, tokens(config)
    patch = (video.temporal_patch_size, video.spatial_patch_size, video.spatial_patch_size)
    return (
        Signal(3, patch, video, counts["video"].total, counts["video"].kept),
        Signal(1, (audio.temporal_patch_size,), audio, counts["audio"].total, counts["audio"].kept),
    )


class ConvTokens(nn.Module):
    """Conv3d or Conv1d, learned positions, the kept patches (one draw a batch, in training), dropout, CLS token."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        D = signal.encoder.d_model
        conv = nn.Conv3d if len(signal.patch) == 3 else nn.Conv1d
        self.embed = conv(signal.channels, D, signal.patch, signal.patch)  # type: ignore[arg-type]
        self.positions = nn.Parameter(0.02 * torch.randn(signal.total, D))
        self.token = nn.Parameter(0.02 * torch.randn(D))
        self.dropout = nn.Dropout(signal.encoder.position_dropout_rate)
        self.kept = signal.kept

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 or (B, L) -> (B, 1 + K, D)."""
        x = self.embedded(x)
        if self.training and self.kept < x.shape[1]:
            x = x[:, torch.randperm(x.shape[1], device=x.device)[: self.kept]]
        return self.with_token(self.dropout(x))

    def embedded(self, x: Tensor) -> Tensor:
        """All patches with their positions, (B, N, D)."""
        x = channels_first(x, self.token.dtype)
        return self.embed(x).flatten(2).transpose(1, 2) + self.positions

    def with_token(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)


class Words(nn.Module):
    """Word vectors as wide as ours, frozen if ours are, a GELU projection, and optionally positions and CLS token."""

    def __init__(self, config: TextConfig, words: int) -> None:
        super().__init__()
        D = config.d_model
        self.table = nn.Embedding(config.vocab_size, config.d_embedding)
        self.table.weight.requires_grad_(config.trainable_embeddings)
        self.project = nn.Linear(config.d_embedding, D)
        self.token = nn.Parameter(0.02 * torch.randn(D))
        self.positions = nn.Parameter(0.02 * torch.randn(words, D)) if words else None

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W) integers -> (R, 1 + W, D), and a bool mask (R, 1 + W), True where there is a word."""
        x = F.gelu(self.project(self.table(ids)))
        if self.positions is not None:
            x = x + self.positions
        x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)
        return x, F.pad(ids != 0, (1, 0), value=True)


class Pretrained(nn.Module):
    """Three encoders, the spaces of our head (`vatt.models.heads.FACHead`) by plain MLPs, and two losses, all logits in
    memory."""

    def __init__(self, config: VATTConfig, video: nn.Module, audio: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.video, self.audio, self.text = video, audio, text
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


def _encoder(part: TransformerConfig | TextConfig) -> nn.TransformerEncoder:
    """PyTorch's encoder, pre-norm, with a final norm; (B, N, D) to (B, N, D)."""
    options: dict[str, Any] = dict(layer_norm_eps=part.layer_norm_epsilon, batch_first=True, norm_first=True)
    sizes = (part.d_model, part.num_heads, part.d_ff, part.dropout_rate)
    layer = nn.TransformerEncoderLayer(*sizes, activation="gelu", **options)
    norm = nn.LayerNorm(part.d_model, part.layer_norm_epsilon)
    return nn.TransformerEncoder(layer, part.num_layers, norm, enable_nested_tensor=False)


class PlainText(nn.Module):
    """(R, W) word ids -> (R, D), by nn.TransformerEncoder."""

    def __init__(self, config: VATTConfig) -> None:
        super().__init__()
        self.words = Words(config.text, config.input.words)
        self.dropout = nn.Dropout(config.text.dropout_rate)
        self.encoder = _encoder(config.text)

    def forward(self, ids: Tensor) -> Tensor:
        x, present = self.words(ids)
        return self.encoder(self.dropout(x), src_key_padding_mask=~present)[:, 0]


class PlainSignal(nn.Sequential):
    """Video or sound -> (B, D), by nn.TransformerEncoder."""

    def __init__(self, signal: Signal) -> None:
        super().__init__(ConvTokens(signal), _encoder(signal.encoder))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


def _plain(config: VATTConfig) -> Pretrained:
    video, audio = _signals(config)
    return Pretrained(config, PlainSignal(video), PlainSignal(audio), PlainText(config))


class TimmSignal(nn.Module):
    """Video or sound -> (B, D), by timm's blocks."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        part = signal.encoder
        self.tokens = ConvTokens(signal)
        rate = patch_dropout_rate(signal.kept, signal.total)
        self.drop = need("timm.layers", "PatchDropout")(rate, num_prefix_tokens=1)
        norm = partial(nn.LayerNorm, eps=part.layer_norm_epsilon)
        block = need("timm.models.vision_transformer", "Block")
        options = dict(mlp_ratio=part.d_ff / part.d_model, qkv_bias=True, norm_layer=norm)
        options |= dict(proj_drop=part.dropout_rate, attn_drop=part.dropout_rate)
        layers = (block(part.d_model, part.num_heads, **options) for _ in range(part.num_layers))
        self.blocks, self.norm = nn.Sequential(*layers), norm(part.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens.with_token(self.tokens.dropout(self.tokens.embedded(x)))
        return self.norm(self.blocks(self.drop(x)))[:, 0]


def _timm(config: VATTConfig) -> Pretrained:
    video, audio = _signals(config)
    return Pretrained(config, TimmSignal(video), TimmSignal(audio), PlainText(config))


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
        self.total, self.kept = signal.total, signal.kept

    def forward(self, video: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        frames = channels_first(video, dtype).transpose(1, 2)  # (B, T, 3, H, W)
        mask = None  # (B, N), True for the patches that are left out; one draw a batch
        if self.training and self.kept < self.total:
            mask = torch.ones(self.total, dtype=torch.bool, device=video.device)
            mask[torch.randperm(self.total, device=video.device)[: self.kept]] = False
            mask = mask.expand(len(video), -1)
        return self.model(frames, bool_masked_pos=mask).last_hidden_state.mean(1)


class Sound(nn.Module):
    """Patches of the waveform through the encoder layers of VideoMAE, those of a ViT: (B, L) -> (B, D)."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        part = signal.encoder
        self.tokens = ConvTokens(signal)
        self.encoder = need("transformers.models.videomae.modeling_videomae", "VideoMAEEncoder")(_videomae(part))
        self.norm = nn.LayerNorm(part.d_model, part.layer_norm_epsilon)

    def forward(self, audio: Tensor) -> Tensor:
        return self.norm(self.encoder(self.tokens(audio)).last_hidden_state)[:, 0]


class Sentences(nn.Module):
    """T5EncoderModel on word vectors as wide as ours: (R, W) word ids -> (R, D)."""

    def __init__(self, part: TextConfig) -> None:
        super().__init__()
        self.words = Words(part, 0)
        same = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "layer_norm_epsilon")
        options = need("transformers", "T5Config")(
            vocab_size=2,  # its own table is not used
            **{name: getattr(part, name) for name in same},
            relative_attention_num_buckets=part.num_relative_buckets,
            relative_attention_max_distance=part.max_relative_distance,
            feed_forward_proj="gelu",
            attn_implementation="sdpa",
        )
        self.model = need("transformers", "T5EncoderModel")(options)
        self.model.get_input_embeddings().weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x, present = self.words(ids)
        return self.model(inputs_embeds=x, attention_mask=present.long()).last_hidden_state[:, 0]


def _transformers(config: VATTConfig) -> Pretrained:
    video, audio = _signals(config)
    return Pretrained(config, MaskedVideo(config, video), Sound(audio), Sentences(config.text))
