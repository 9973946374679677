"""Memory of the activations of a training step on one rank, computed from the configuration.

Convention: bytes of distinct storages. An activation is what the forward pass saves for the backward pass, beside the
parameters, the buffers and the batch itself. The formulas are held against the tensors that PyTorch really saves, in
tests/analysis/test_memory.py: on a CPU, our kernels in Triton's interpreter; never checked on a GPU. Not counted: the
allocator's rounding and gaps, the CUDA context, workspaces, and gradients that pass between operations.

Widths: D model, I all heads, M inner width of the MLP, H heads; n tokens of a sequence; s bytes of an element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vatt.analysis.flops import Branch, branches_of, tokens
from vatt.models.config import TextConfig, TransformerConfig, VATTConfig
from vatt.objectives.contrastive import PAIRS

BACKENDS = ("torch", "triton")


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank between forward and backward pass.

    ``samples``: by part ("video", "audio", "text", "head"), of all samples of the batch; ``constant``: position rows
    and indices; ``gathered``: embeddings of all ranks; ``pairs``: similarities with them ("torch" alone);
    ``recomputed``: what the largest layer adds while checkpointing computes it again.
    """

    samples: dict[str, int]
    constant: int
    gathered: int
    pairs: int
    recomputed: int

    @property
    def total(self) -> int:
        return sum(self.samples.values()) + self.constant + self.gathered + self.pairs + self.recomputed


@dataclass(frozen=True)
class _Way:
    """How a step computes: element size, whether our kernels do it, bytes an element of a stored dropout mask."""

    s: int
    triton: bool
    mask: int
    fused_rms: bool


def activation_bytes(
    config: VATTConfig,
    dtype: torch.dtype,
    batch: int,
    *,
    checkpointing: bool = False,
    backend: str = "triton",
    ranks: int = 1,
    device: str = "cuda",
) -> Activations:
    """What the forward pass of ``Pretraining`` saves in training, for ``batch`` samples on this rank of ``ranks``.

    Args:
        dtype: float32, or bfloat16 as the engine casts the module (statistics and losses stay float32).
        checkpointing: encoder layers keep their inputs only.
        backend: "torch", the plain references of every operation, or "triton", our kernels.
        device: "cuda", or "cpu", where PyTorch stores dropout masks as floats and T5's norm in several operations.

    Clips have the size of ``config.input``, and position tables fit it (resampling them adds a little, once a batch).

    Raises:
        ValueError: an unknown backend or device, a type of another kind, or a batch below 1.
    """
    if backend not in BACKENDS or device not in ("cuda", "cpu"):
        raise ValueError(f"backend, device: expected one of {BACKENDS} and cuda or cpu, got {backend!r}, {device!r}")
    if dtype not in (torch.float32, torch.bfloat16) or min(batch, ranks) < 1:
        raise ValueError(
            f"expected float32 or bfloat16 and a batch and ranks of 1 or more, got {dtype}, {batch}, {ranks}"
        )
    s = dtype.itemsize
    way = _Way(s, backend == "triton", s if device == "cpu" else 1, fused_rms=device == "cuda")
    branches = branches_of(config, training=True)
    counts = {name: config.input.candidates if name == "text" else 1 for name in branches}
    samples, layers = {}, {}
    for name, branch in branches.items():
        whole = _before(config, name, branch, way)
        layers[name] = _layer(branch, way, masked=name == "text") if branch.layers else 0
        kept = _inputs(branch, way) if checkpointing else branch.layers * layers[name]
        samples[name] = batch * counts[name] * (whole + kept + _ends(config, branch, way, checkpointing))
    largest = [batch * counts[name] * size for name, size in layers.items()]
    again = sum(largest) if config.backbone == "unified" else max(largest)
    loss, rows = _loss(config)
    samples["head"] = batch * (_head(config, {name: part.width for name, part in branches.items()}, way) + loss)
    everyone = batch * ranks
    pairs = 0 if way.triton else 4 * batch * everyone * 2 * sum(math.prod(pair) for pair in rows)
    gathered = 0 if ranks == 1 else everyone * loss // 2
    return Activations(
        samples, _constant(config, branches, way, checkpointing), gathered, pairs, again if checkpointing else 0
    )


def _is_t5(part: TransformerConfig) -> bool:
    return isinstance(part, TextConfig) and part.kind == "t5"


def _pre_norm(part: TransformerConfig) -> bool:
    return _is_t5(part) or (part.pre_norm and not (isinstance(part, TextConfig) and part.kind == "bert_small"))


def _rms(part: TransformerConfig, n: int, way: _Way) -> int:
    """What an RMS norm saves beyond the sum that it reads: its scale a token; PyTorch's CPU also what it scaled."""
    if way.triton or way.fused_rms:
        return 4 * n
    return n * (4 + part.d_model * (4 if way.s == 4 else 6))  # in bf16 both are float32, and the sum itself is not kept


def _layer(branch: Branch, way: _Way, masked: bool) -> int:
    """One layer, one sequence: sum and result of two norms, q, k, v, attended values, both sides of the GELU."""
    part, n, s = branch.encoder, branch.tokens, way.s
    D, inner, H, drop = part.d_model, part.num_heads * part.d_kv, part.num_heads, part.dropout_rate > 0
    size = n * s * (4 * D + 4 * inner + 2 * part.d_ff) + 8 * n + (_rms(part, n, way) if _is_t5(part) else 8 * n)
    if way.triton:  # log-sum-exp of every row and head; a byte a key where keys are masked; dropout is a seed
        return size + 4 * H * n + (n if masked else 0)
    weights = 4 + (s if s < 4 or drop else 0) + (way.mask if drop else 0)
    return size + H * n * n * weights + (n * (2 * D + part.d_ff) * way.mask if drop else 0)


def _inputs(branch: Branch, way: _Way) -> int:
    """What checkpointing keeps: stream and update before a layer; the first has no update, a post-norm layer none."""
    tensors = 2 * branch.layers - 1 if _pre_norm(branch.encoder) else branch.layers
    return max(tensors, 0) * branch.tokens * branch.encoder.d_model * way.s


def _ends(config: VATTConfig, branch: Branch, way: _Way, checkpointing: bool) -> int:
    """Around the layers: the final norm, T5's dropout before them, the GELU projection behind them, and the output,
    whose first row the "fac" head reads and so keeps all of it (the ReLU of "joint" makes a copy)."""
    part, n, s = branch.encoder, branch.tokens, way.s
    rows, output = n * part.d_model, s if config.head.kind == "fac" else 0
    size = n * branch.post * (s + output) + rows * (s if branch.post else output)
    if branch.layers == 0:
        return rows * s
    if not _pre_norm(part):
        return size
    mask = rows * way.mask if part.dropout_rate > 0 else 0
    final = _rms(part, n, way) if _is_t5(part) else 8 * n
    of_update = mask if checkpointing and not way.triton else 0  # else counted with the layers
    return size + rows * s + final + mask * (1 + _is_t5(part)) + of_update


def _before(config: VATTConfig, name: str, branch: Branch, way: _Way) -> int:
    """Tokens of one sequence: the patches that PyTorch copies (our kernel reads the batch), the GELU projection."""
    rows, D, s, part = branch.rows, branch.encoder.d_model, way.s, branch.encoder
    if name == "text":
        words = rows * branch.values * s + (rows * D * s if branch.layers else 0)
        has_positions = branch.layers > 0 and not _is_t5(part)
        return words + (rows * D * way.mask if has_positions and part.position_dropout_rate > 0 else 0)
    wave = name == "audio" and config.audio_input == "waveform"
    view = wave and s == 4 and rows == tokens(config)["audio"].total  # patches one behind the other: the batch itself
    size = 0 if way.triton or view else rows * branch.values * s
    if branch.pre:
        size += 2 * rows * D * s
    stored = part.position_dropout_rate > 0 and (branch.pre or not way.triton)
    return size + (rows * D * way.mask if stored else 0)


def _head(config: VATTConfig, widths: dict[str, int], way: _Way) -> int:
    """One sample: batch norms keep three float32 tensors, the ReLU its result; the features are the encoders'."""
    head, s = config.head, way.s
    if head.kind == "joint":
        sentences = config.input.candidates
        ins = widths["video"] + widths["audio"] + sentences * widths["text"]
        return s * ins + 12 * head.d_va * (2 + sentences)
    return s * 2 * head.d_va + 12 * (2 * head.d_va + head.d_vat)


def _loss(config: VATTConfig) -> tuple[int, list[tuple[int, int]]]:
    """One sample: bytes of the embeddings of each pair, float32, before and after they are normalised; rows of both."""
    weights = (config.loss.vid_txt_weight, config.loss.vid_aud_weight, config.loss.aud_txt_weight)
    size, rows = 0, []
    for (first, second), weight in zip(PAIRS.values(), weights, strict=True):
        if weight > 0:
            width = config.head.d_vat if config.head.kind == "fac" and second == "text/tovid" else config.head.d_va
            pair = tuple(config.input.candidates if name.startswith("text") else 1 for name in (first, second))
            rows.append((pair[0], pair[1]))
            size += 2 * 4 * sum(pair) * width
    return size, rows


def _constant(config: VATTConfig, branches: dict[str, Branch], way: _Way, checkpointing: bool) -> int:
    """Statistics of batch norms; sums of the position tables and their norms; the kept indices; T5's buckets and its
    biases: one as an argument of checkpointed layers, or a copy a layer for our kernel."""
    head = config.head
    size = 8 * (3 * head.d_va if head.kind == "joint" else 2 * head.d_va + head.d_vat)
    for name, count in tokens(config).items():
        part = branches[name].encoder
        if name != "text":
            axes = 1 if name == "audio" and config.audio_input == "waveform" else 2
            size += count.total * (8 + (part.d_model * way.s if axes > 1 else 0)) + 8 * count.kept
        elif _is_t5(part):
            pairs, copies = branches[name].tokens ** 2, part.num_layers if way.triton else 0
            size += pairs * (8 + part.num_heads * way.s * (1 if checkpointing else copies))
        else:
            size += 8 * count.total
    return size


def traffic_bytes(kept: Activations, dtype: torch.dtype, parameters: int) -> int:
    """Bytes that the forward and backward pass of one rank at least move, if no cache holds them from one to the other.

    Counted: every activation is written once and read once, every parameter read in both passes, every gradient
    written once. Not counted: what operations pass on without saving it, gradients of activations, the optimizer.
    """
    return 2 * (kept.total - kept.recomputed) + 3 * parameters * dtype.itemsize
