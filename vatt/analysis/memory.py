"""Memory of the activations of a training step on one rank, computed from the configuration.

Convention: bytes of distinct storages. An activation is what the forward pass saves for the backward pass, beside the
parameters, the buffers and the batch itself. tests/analysis/test_memory.py compares the formulas with the tensors that
PyTorch really saves: on a CPU, our kernels in Triton's interpreter. They were never checked on a GPU. Not counted are
the allocator's rounding and gaps, the CUDA context, workspaces, and gradients that pass between operations.

Sizes: D width of the model, H heads, n tokens of a sequence, s bytes of an element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from vatt.analysis.convolutions import of_audio, of_video
from vatt.analysis.flops import Branch, branches_of, tokens
from vatt.kernels.patch_embed.gather import KEPT_BYTES
from vatt.models.config import (
    ClassifierConfig,
    TextConfig,
    TransformerConfig,
    VATTConfig,
    VideoConfig,
    WaveformConfig,
)
from vatt.models.mmv.layers import NO_CHECKPOINTING
from vatt.models.sound import log_mel_shape
from vatt.objectives.contrastive import PAIRS

BACKENDS = ("torch", "triton", "auto", "cpu")


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank between forward and backward pass.

    ``samples``: of all samples of the batch, by part ("video", "audio", "text", "head"); ``constant``: position rows
    and indices; ``gathered``: embeddings of all ranks; ``pairs``: similarities with them (backend "torch" only);
    ``recomputed``: what the largest layer adds while checkpointing computes it again; ``features``: of a batch in
    parts, those of the whole batch and their gradient.
    """

    samples: dict[str, int]
    constant: int
    gathered: int
    pairs: int
    recomputed: int
    features: int = 0

    @property
    def total(self) -> int:
        others = self.constant + self.gathered + self.pairs + self.recomputed + self.features
        return sum(self.samples.values()) + others


@dataclass(frozen=True)
class _Mode:
    """How a step computes."""

    s: int  # bytes of an element
    triton: bool  # our kernels
    gathers: int  # samples of a batch whose patches the patch embedding keeps, if they are few enough; 0: it never does
    mask: int  # bytes per element of a stored dropout mask
    fused_rms: bool  # the RMS norm is one operation
    flash: bool = False  # attention without dropout keeps no weights


def activation_bytes(
    config: VATTConfig,
    dtype: torch.dtype,
    batch: int,
    *,
    checkpointing: bool = False,
    backend: str = "triton",
    ranks: int = 1,
    device: str = "cuda",
    parts: int = 1,
) -> Activations:
    """What the forward pass of `Pretraining` saves in training, for ``batch`` samples on this rank of ``ranks``.

    Args:
        dtype: float32, or bfloat16 as the engine casts the module (statistics and losses stay float32).
        checkpointing: encoder layers keep only their inputs.
        backend: "torch", the plain reference of every operation, or "triton", our kernels; "auto": our kernels, and a
            patch embedding that gathers (`vatt.kernels.patch_embed.gather`), which may be chosen and keeps more; "cpu":
            as "torch", with an attention that keeps no weights where it drops none, as runs on a CPU have it.
        device: "cuda", or "cpu", where PyTorch stores dropout masks as floats and T5's norm in several operations.
        parts: in which the batch passes the backbones (engine.contrastive_parts); head and loss see all of it.

    Clips have the size of ``config.input``, and position tables fit it (resampling adds a little, once per batch).

    Raises:
        ValueError: an unknown backend or device, another dtype, a batch or ranks below 1, parts that do not divide the
            batch; checkpointing or parts of convolutional networks, whose batch norms rule them out.
    """
    if backend not in BACKENDS or device not in ("cuda", "cpu"):
        raise ValueError(f"backend, device: expected one of {BACKENDS} and cuda or cpu, got {backend!r}, {device!r}")
    if dtype not in (torch.float32, torch.bfloat16) or min(batch, ranks) < 1:
        raise ValueError(
            f"expected float32 or bfloat16 and a batch and ranks of 1 or more, got {dtype}, {batch}, {ranks}"
        )
    if parts < 1 or batch % parts:
        raise ValueError(f"parts: {parts} do not divide a batch of {batch}")
    convolutional = config.backbone == "convolutional"
    if convolutional and checkpointing:
        raise ValueError(NO_CHECKPOINTING)
    if convolutional and parts > 1:
        raise ValueError("contrastive_parts: the batch norms of convolutional networks must see the whole batch")
    s, part = dtype.itemsize, batch // parts
    mode = _Mode(
        s,
        backend not in ("torch", "cpu"),
        part if backend == "auto" else 0,
        s if device == "cpu" else 1,
        fused_rms=device == "cuda",
        flash=backend == "cpu",
    )
    views = config.head.kind == "fac" and parts == 1
    branches = branches_of(config, training=True)
    counts = {name: config.input.candidates if name == "text" else 1 for name in config.feature_widths}
    samples, layers = {}, {}
    for name, branch in branches.items():
        whole = _before(config, name, branch, mode)
        layers[name] = _layer(branch, mode, masked=name == "text") if branch.layers else 0
        kept = _inputs(branch, mode) if checkpointing else branch.layers * layers[name]
        samples[name] = part * counts[name] * (whole + kept + _ends(branch, mode, checkpointing, views))
    constant = _constant(config, branches, mode, checkpointing)
    if convolutional:
        for name, passed in (("video", of_video(config, dtype)), ("audio", of_audio(config, dtype))):
            samples[name] = batch * (passed.bytes + (s * config.feature_widths[name] if views else 0))
            constant += passed.constant
    largest = [part * counts[name] * size for name, size in layers.items()]
    again = sum(largest) if config.backbone == "unified" else max(largest)
    loss, rows = _loss(config)
    samples["head"] = batch * (_head(config, mode) + loss)
    everyone = batch * ranks
    pairs = 0 if mode.triton else 4 * batch * everyone * 2 * sum(math.prod(pair) for pair in rows)
    gathered = 0 if ranks == 1 else everyone * loss // 2
    widths = sum(counts[name] * width for name, width in config.feature_widths.items())
    return Activations(
        samples,
        constant,
        gathered,
        pairs,
        again if checkpointing else 0,
        features=2 * batch * widths * s if parts > 1 else 0,
    )


def classifier_activation_bytes(
    config: ClassifierConfig,
    dtype: torch.dtype,
    batch: int,
    *,
    checkpointing: bool = False,
    backend: str = "triton",
    device: str = "cuda",
) -> int:
    """What the forward pass of a classifier saves in fine-tuning, in bytes: the path of its modality, as in
    `activation_bytes`, and its logits.

    Raises:
        ValueError: as `activation_bytes`.
    """
    spec, logits = config.input, batch * config.num_classes * (2 * dtype.itemsize + 3 * 4)  # with loss and targets
    if config.network == "convolutional":
        passed = of_video(config, dtype) if config.modality == "video" else of_audio(config, dtype)
        return batch * passed.bytes + passed.constant + logits
    least: dict[str, Any] = dict(num_layers=1, d_model=1, d_kv=1, d_ff=1, num_heads=1, random_patch_sampling=False)
    other: dict[str, Any] = {"text": TextConfig(kind="linear", d_model=1, d_embedding=1, vocab_size=2)}
    if config.modality == "video":  # of the path that is not there next to nothing is counted: a patch or two
        other |= {"video": config.video}
        other["waveform"] = WaveformConfig(**least, temporal_patch_size=min(spec.samples, 65_536))
    else:
        other |= {"waveform": config.waveform}
        patch: dict[str, Any] = dict(
            temporal_patch_size=min(spec.frames, 1024), spatial_patch_size=min(spec.size, 1024)
        )
        other["video"] = VideoConfig(**least, **patch)
    whole = VATTConfig(input=replace(spec, candidates=1, words=1), **other)
    kept = activation_bytes(whole, dtype, batch, checkpointing=checkpointing, backend=backend, device=device)
    return kept.samples[config.modality] + kept.constant + kept.recomputed + logits


def _is_t5(part: TransformerConfig) -> bool:
    return isinstance(part, TextConfig) and part.kind == "t5"


def _pre_norm(part: TransformerConfig) -> bool:
    return _is_t5(part) or (part.pre_norm and not (isinstance(part, TextConfig) and part.kind == "bert_small"))


def _rms(part: TransformerConfig, n: int, mode: _Mode) -> int:
    """What an RMS norm saves beyond the sum that it reads: a scale per token; on a CPU, PyTorch also what it scaled."""
    if mode.triton or mode.fused_rms:
        return 4 * n
    return n * (
        4 + part.d_model * (4 if mode.s == 4 else 6)
    )  # in bf16 both are float32, and the sum itself is not kept


def _layer(branch: Branch, mode: _Mode, masked: bool) -> int:
    """One layer, one sequence: input and output of two norms, q, k, v, attention output, both sides of the GELU."""
    part, n, s = branch.encoder, branch.tokens, mode.s
    D, inner, H, drop = part.d_model, part.num_heads * part.d_kv, part.num_heads, part.dropout_rate > 0
    size = n * s * (4 * D + 4 * inner + 2 * part.d_ff) + 8 * n + (_rms(part, n, mode) if _is_t5(part) else 8 * n)
    if mode.triton:  # log-sum-exp of each row and head; a byte per masked key; dropout is a seed
        return size + 4 * H * n + (n if masked else 0)
    if mode.flash and not drop and not masked:
        return size + 4 * H * n
    weights = 4 + (s if s < 4 or drop else 0) + (mode.mask if drop else 0)
    return size + H * n * n * weights + (n * (2 * D + part.d_ff) * mode.mask if drop else 0)


def _inputs(branch: Branch, mode: _Mode) -> int:
    """What checkpointing keeps: each layer's stream and update (no update for the first layer and for post-norm)."""
    tensors = 2 * branch.layers - 1 if _pre_norm(branch.encoder) else branch.layers
    return max(tensors, 0) * branch.tokens * branch.encoder.d_model * mode.s


def _ends(branch: Branch, mode: _Mode, checkpointing: bool, views: bool) -> int:
    """Around the layers: T5's dropout before them, the final norm, the GELU projection and the output behind them.

    The "fac" head reads the first row of the output and so keeps all of it (``views``); the ReLU of "joint" makes a
    copy, and so do parts that are joined.
    """
    part, n, s = branch.encoder, branch.tokens, mode.s
    rows, output = n * part.d_model, s if views else 0
    size = n * branch.post * (s + output) + rows * (s if branch.post else output)
    if branch.layers == 0:  # words, and their maximum
        return (rows + part.d_model) * s
    if not _pre_norm(part):
        return size
    mask = rows * mode.mask if part.dropout_rate > 0 else 0
    final = _rms(part, n, mode) if _is_t5(part) else 8 * n
    of_update = mask if checkpointing and not mode.triton else 0  # else counted with the layers
    return size + rows * s + final + mask * (1 + _is_t5(part)) + of_update


def _before(config: VATTConfig, name: str, branch: Branch, mode: _Mode) -> int:
    """From input to tokens, one sequence: patches that PyTorch copies (our kernel reads the batch), GELU projection."""
    rows, D, s, part = branch.rows, branch.encoder.d_model, mode.s, branch.encoder
    if name == "text":
        words = rows * branch.values * s + (rows * D * s if branch.layers else 0)
        has_positions = branch.layers > 0 and not _is_t5(part)
        return words + (rows * D * mode.mask if has_positions and part.position_dropout_rate > 0 else 0)
    wave = name == "audio" and config.audio_input == "waveform"
    view = wave and s == 4 and rows == tokens(config)["audio"].total  # patches in a row are a view of the batch
    size = 0 if mode.triton or view else rows * branch.values * s
    if wave and config.input.audio_level == "rms" and (mode.triton or view):
        size += 4 * config.input.samples  # the sound at its level, which patches are read from, in place of the batch
    if name == "audio" and not wave and mode.triton:
        size += 4 * math.prod(log_mel_shape(config.input, config.spectrogram))
    gathered = (rows + 1) * branch.values * s  # with the row of the aggregation token
    if mode.gathers and mode.gathers * gathered <= KEPT_BYTES:
        size += gathered
    if branch.pre:
        size += 2 * rows * D * s
    stored = part.position_dropout_rate > 0 and (branch.pre or not mode.triton)
    return size + (rows * D * mode.mask if stored else 0)


def _head(config: VATTConfig, mode: _Mode) -> int:
    """One sample: three float32 tensors of each batch norm, the output of the ReLU; the encoders count the features."""
    head, s = config.head, mode.s
    if head.kind == "joint":
        sentences, widths = config.input.candidates, config.feature_widths
        ins = widths["video"] + widths["audio"] + sentences * widths["text"]
        return s * ins + 12 * head.d_va * (2 + sentences)
    return s * 2 * head.d_va + 12 * (2 * head.d_va + head.d_vat)


def _loss(config: VATTConfig) -> tuple[int, list[tuple[int, int]]]:
    """One sample: bytes of all pairs' embeddings, float32, before and after normalisation; candidates of each pair."""
    weights = (config.loss.vid_txt_weight, config.loss.vid_aud_weight, config.loss.aud_txt_weight)
    size, rows = 0, []
    for (first, second), weight in zip(PAIRS.values(), weights, strict=True):
        if weight > 0:
            width = config.head.d_vat if config.head.kind == "fac" and second == "text/tovid" else config.head.d_va
            pair = tuple(config.input.candidates if name.startswith("text") else 1 for name in (first, second))
            rows.append((pair[0], pair[1]))
            size += 2 * 4 * sum(pair) * width
    return size, rows


def _constant(config: VATTConfig, branches: dict[str, Branch], mode: _Mode, checkpointing: bool) -> int:
    """What does not grow with the batch: statistics of batch norms, position sums, indices of kept tokens, T5's bias.

    T5's bias is one argument of checkpointed layers, or a copy per layer for our kernel.
    """
    head = config.head
    size = 8 * (3 * head.d_va if head.kind == "joint" else 2 * head.d_va + head.d_vat)
    for name, count in tokens(config).items():
        part = branches[name].encoder
        if name != "text":
            axes = 1 if name == "audio" and config.audio_input == "waveform" else 2
            size += count.total * (8 + (part.d_model * mode.s if axes > 1 else 0)) + 8 * count.kept
        elif _is_t5(part):
            pairs, copies = branches[name].tokens ** 2, part.num_layers if mode.triton else 0
            size += pairs * (8 + part.num_heads * mode.s * (1 if checkpointing else copies))
        else:
            size += 8 * count.total
    return size


def traffic_bytes(kept: Activations, dtype: torch.dtype, parameters: int) -> int:
    """Lower bound of the bytes that both passes of one rank move, if no cache holds them from one to the other.

    Counted: each activation is written once and read once, each parameter read in both passes, each gradient written
    once. Not counted: what operations pass on without saving it, gradients of activations, the optimizer.
    """
    return 2 * (kept.total - kept.recomputed) + 3 * parameters * dtype.itemsize
