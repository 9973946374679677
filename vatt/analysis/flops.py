"""Floating-point operations of a model, counted from its configuration.

Convention: 2 operations per multiply-add, of the forward pass of one clip. Only matrix products are counted, and the
Fourier transforms of a spectrogram model:

    patch                  patch or word projection, and the GELU projections before and after the encoder
    attention_projections  query, key, value and output: 8 N D (H E) per layer
    attention_products     scores and their product with the values: 2 N^2 (H E) each, so 4 N^2 (H E) per layer
    mlp                    4 N D F per layer
    convolutions           of the convolutional networks (`vatt.analysis.convolutions`)
    head                   projections to the common spaces
    log_mel                of a spectrogram model: for each step in time a real Fourier transform of W samples,
                           2.5 W log2 W, and its product with the mel filters; the backward pass has none of it

for N tokens (with the aggregation token), width D, H heads of E dimensions, F inner dimensions of the MLP. The figures
published with the paper count the attention products once (2 N^2 D): halve that field to compare with them.
"""

from __future__ import annotations

import math
import re
from dataclasses import astuple, dataclass, replace

from vatt.analysis.convolutions import of_audio, of_video
from vatt.models.config import ClassifierConfig, DropTokenConfig, TextConfig, TransformerConfig, VATTConfig
from vatt.models.sound import log_mel_shape

# Device peaks: dense bf16 operations per second with float32 sums, by words of the name that the driver reports; the
# first match counts. The data sheets state them with sparsity, which is twice as much, and for whole systems. Sources,
# all of NVIDIA: the data sheets "Blackwell" and "Blackwell Ultra" (GB200 and GB300 NVL72: 360 PFLOPS sparse, 72 GPUs;
# HGX B200 and B300: 36 PFLOPS sparse, 8 GPUs), "H200", "GH200", "H100", "A100", "L40S", "L4", "A10"; and the white
# papers of the RTX Blackwell and RTX PRO Blackwell GPUs, appendix A. Those of Blackwell were read in tables of others.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("GB200|GB300", 2500e12),
    ("B200|B300", 2250e12),
    ("H200 NVL", 835e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("GH200|H200|H100|H800", 989e12),
    ("RTX PRO 6000 Blackwell (Workstation|Server) Edition", 503.8e12),  # not the Max-Q edition
    ("A100|A800", 312e12),
    ("L40S", 362e12),
    ("GeForce RTX 5090(?! Laptop| D)", 209.5e12),
    ("L4", 121e12),
    ("A10", 125e12),
)


@dataclass(frozen=True)
class Tokens:
    """Patches or words of one modality in a clip, and how many of them DropToken keeps."""

    total: int
    kept: int


@dataclass(frozen=True)
class Flops:
    """Operations by part; the module's docstring says what each part holds."""

    patch: int = 0
    attention_projections: int = 0
    attention_products: int = 0
    mlp: int = 0
    convolutions: int = 0
    head: int = 0
    log_mel: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Flops:
        return Flops(*(times * part for part in astuple(self)))

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class Branch:
    """The path of one modality through its encoder, or the shared one."""

    encoder: TransformerConfig
    layers: int
    rows: int  # tokens that the patch or word projection makes
    tokens: int  # tokens in the encoder, with aggregation tokens
    values: int  # of a patch, or dimensions of a word vector
    pre: bool  # whether a GELU projection D -> D follows for each row
    post: int  # width of the GELU projection behind the encoder, or 0
    dropped: int = 0  # patches that are projected and then dropped

    @property
    def width(self) -> int:
        """Dimensions of the features."""
        return self.post or self.encoder.d_model


def tokens(config: VATTConfig, training: bool = True) -> dict[str, Tokens]:
    """Tokens of "video", "audio" and "text" (one sentence) in a clip of ``config.input``, without aggregation tokens;
    of a convolutional model those of "text" alone.

    ``training`` applies DropToken, which keeps a share of the position buckets, as in the official code. A spectrogram
    has as many patches as buckets (`vatt.models.sound.check_spectrogram`).
    """
    frames, size, samples, words = config.input.frames, config.input.size, config.input.samples, config.input.words
    if config.backbone == "unified":
        part = config.unified
        video = (frames // part.vid_temporal_patch_size) * (size // part.vid_spatial_patch_size) ** 2
        video_buckets = part.max_vid_temporal_buckets * part.max_vid_spatial_buckets**2
        audio = samples // part.aud_temporal_patch_size
        return {
            "video": _kept(video, video_buckets, part, training),
            "audio": _kept(audio, part.max_aud_temporal_buckets, part, training),
            "text": Tokens(words, words),
        }
    if config.backbone == "convolutional":
        return {"text": Tokens(words, words)}
    vid, aud, spec = config.video, config.waveform, config.spectrogram
    video = (frames // vid.temporal_patch_size) * (size // vid.spatial_patch_size) ** 2
    video_buckets = vid.max_temporal_buckets * vid.max_vertical_buckets * vid.max_horizontal_buckets
    if config.audio_input == "spectrogram":
        patches = spec.max_temporal_buckets * spec.max_spectoral_buckets
        sound = Tokens(patches, patches)
    else:
        sound = _kept(samples // aud.temporal_patch_size, aud.max_temporal_buckets, aud, training)
    return {"video": _kept(video, video_buckets, vid, training), "audio": sound, "text": Tokens(words, words)}


def _kept(total: int, buckets: int, drop: DropTokenConfig, training: bool) -> Tokens:
    if not (training and drop.random_patch_sampling):
        return Tokens(total, total)
    return Tokens(total, int(drop.patch_sampling_rate * buckets))


def forward_flops(config: VATTConfig, training: bool = True, project_all: bool = False) -> dict[str, Flops]:
    """Operations of "video", "audio", "text" and "head" for one clip.

    Args:
        training: with DropToken and all candidate sentences; otherwise all tokens and one sentence.
        project_all: every patch is projected before DropToken, as in the official code; ours projects the kept ones.
    """
    sentences = config.input.candidates if training else 1
    branches = branches_of(config, training)
    if project_all:
        counts = tokens(config, training)
        branches = {
            name: replace(branch, dropped=counts[name].total - counts[name].kept) for name, branch in branches.items()
        }
    found = {name: _branch_flops(branch) for name, branch in branches.items()}
    found["text"] = found["text"] * sentences
    if config.backbone == "separate" and config.audio_input == "spectrogram":
        found["audio"] += Flops(log_mel=_log_mel_flops(config))
    if config.backbone == "convolutional":
        networks = {"video": of_video(config), "audio": of_audio(config)}
        found = {name: Flops(convolutions=passed.flops) for name, passed in networks.items()} | found
    found["head"] = Flops(head=_head_flops(config, sentences))
    return found


def branches_of(config: VATTConfig, training: bool) -> dict[str, Branch]:
    """The paths of "video", "audio" and "text" (one sentence) through Transformers, so of a convolutional model that of
    "text" alone; ``training`` applies DropToken."""
    kept = {name: count.kept for name, count in tokens(config, training).items()}
    if config.backbone == "unified":
        part = config.unified
        values = {
            "video": part.vid_temporal_patch_size * part.vid_spatial_patch_size**2 * 3,
            "audio": part.aud_temporal_patch_size,
            "text": part.txt_embedding_dim,
        }
        return {
            name: Branch(part, part.num_layers, n, n + 1, values[name], name != "text", part.d_post_proj)
            for name, n in kept.items()
        }
    if config.backbone == "convolutional":
        return {"text": _text_branch(config.text, kept["text"])}
    vid, audio = config.video, config.spectrogram if config.audio_input == "spectrogram" else config.waveform
    sound = config.waveform.temporal_patch_size
    if config.audio_input == "spectrogram":
        sound = config.spectrogram.temporal_patch_size * config.spectrogram.spectoral_patch_size
    pictures = vid.temporal_patch_size * vid.spatial_patch_size**2 * 3
    signals = {"video": (vid, pictures), "audio": (audio, sound)}
    found = {
        name: Branch(
            part,
            part.num_layers,
            kept[name],
            kept[name] + 1,
            values,
            part.pre_projection,
            part.d_post_proj if part.post_projection else 0,
        )
        for name, (part, values) in signals.items()
    }
    return {**found, "text": _text_branch(config.text, kept["text"])}


def _text_branch(text: TextConfig, words: int) -> Branch:
    """t5 and bert_small project an aggregation token, too; in bert and bert_small the encoder adds one of its own."""
    if text.kind == "linear":
        return Branch(text, 0, words, words, text.d_embedding, False, 0)
    rows = words + (text.kind != "bert")
    return Branch(text, text.num_layers, rows, rows + (text.kind != "t5"), text.d_embedding, False, 0)


def _branch_flops(branch: Branch) -> Flops:
    part, n = branch.encoder, branch.tokens
    D, inner = part.d_model, part.num_heads * part.d_kv
    before = (branch.rows + branch.dropped) * D * branch.values + (branch.rows * D * D if branch.pre else 0)
    return Flops(
        patch=2 * (before + n * D * branch.post),
        attention_projections=branch.layers * 8 * n * D * inner,
        attention_products=branch.layers * 4 * n * n * inner,
        mlp=branch.layers * 4 * n * D * part.d_ff,
    )


def _log_mel_flops(config: VATTConfig) -> int:
    window = int(config.input.sample_rate * config.spectrogram.stft_length)
    steps, bins = log_mel_shape(config.input, config.spectrogram)
    return steps * (round(2.5 * window * math.log2(window)) + 2 * (window // 2 + 1) * bins)


def _head_flops(config: VATTConfig, sentences: int) -> int:
    width = config.feature_widths
    va, vat = config.head.d_va, config.head.d_vat
    if config.head.kind == "joint":
        return 2 * va * (width["video"] + width["audio"] + sentences * width["text"])
    return 2 * va * (width["video"] + va + width["audio"]) + 2 * vat * (va + sentences * width["text"])


def train_flops_per_sample(config: VATTConfig) -> float:
    """Operations of the forward and backward pass of one clip: three forward passes, but one log-mel; recomputation not
    counted."""
    parts = forward_flops(config).values()
    return 3.0 * sum(part.total for part in parts) - 2.0 * sum(part.log_mel for part in parts)


def peak_flops(device_name: str) -> float | None:
    """Peak of a GPU by the name that PyTorch reports, in dense bf16 operations per second (data sheet), or None."""
    return next((peak for name, peak in _PEAKS if re.search(rf"\b({name})\b", device_name)), None)


def classifier_flops(config: ClassifierConfig, training: bool = False) -> float:
    """Operations of a classifier's forward pass, one clip; ``training`` applies DropToken if the model has it."""
    if config.network == "convolutional":
        passed = of_video(config) if config.modality == "video" else of_audio(config)
        return passed.flops + 2.0 * config.backbone.width * config.num_classes  # type: ignore[union-attr]
    whole = VATTConfig(input=config.input, video=config.video, waveform=config.waveform)
    width = branches_of(whole, training)[config.modality].width
    return forward_flops(whole, training)[config.modality].total + 2.0 * width * config.num_classes
