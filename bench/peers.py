"""What an operation is compared with. A provider makes a call from a problem; the first of each operation is ours.

"NAME apart" gives an attention peer queries, keys and values as three tensors, so that it need not gather three
gradients into one: kinder to it than the models are, which project all three at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.problems import Bound, Leaves, Problem
from bench.shapes import TINY, AttentionShape, NceShape, PatchShape, Shape
from vatt.kernels import attention
from vatt.kernels.patch_embed.reference import normalise_uint8
from vatt.kernels.registry import backends

OURS = "triton"
AUTO = "auto"
COMPILE = "torch.compile"
Provider = Callable[[Problem, float], tuple[Bound, Leaves]]


def providers(shape: Shape, kernels: bool = True) -> dict[str, Provider]:
    """By name, in the order in which they are measured. Without ``kernels``, for a CPU: what "auto" takes there in
    place of our kernels, and none of the peers that need a GPU."""
    found = {name: _backend(name) for name in (shape.backends if kernels else (AUTO,))}
    op = shape.op
    if op == "patch_embed":
        found["gather + cuBLAS"] = _gather
    if op == "attention" and kernels:
        found |= {name: _backend(name) for name in backends("packed_attention") if name not in (OURS, "torch")}
        found |= {f"{name} apart": _apart(name) for name in backends("attention") if name not in (OURS, "torch")}
    if op == "nce":
        found |= {"open_clip": _open_clip, "torch in slices": _in_slices}
    if op == "block" and kernels:
        # The same attention on both sides leaves norms and MLP as the difference.
        found |= {f"{name}+sdpa": _backend(f"{name}+sdpa") for name in (OURS, "torch")}
    found["torch"] = _backend("torch")
    # Attention is compiled from the call that can be traced whole.
    found[COMPILE] = _compile(_apart("torch") if op == "attention" else _backend("torch"))
    if op == "block":
        found[f"{COMPILE}+sdpa"] = _compile(_backend("torch+sdpa"))
    if op == "patch_embed":
        found[f"{COMPILE} of gather"] = _compile(_gather)
    if op == "nce":
        found[f"{COMPILE} of open_clip"] = _compile(_open_clip)
    return found


def is_compiled(name: str) -> bool:
    return name.startswith(COMPILE)


def _backend(name: str) -> Provider:
    return lambda problem, dropout: (problem.call(name, dropout), problem.leaves)


def _compile(provider: Provider) -> Provider:
    """Of a tiny shape only the tracing is exercised: on a CPU, the C++ compiler would take a minute."""

    def make(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
        call, leaves = provider(problem, dropout)
        backend = "aot_eager" if problem.shape in TINY else "inductor"
        options: dict[str, Any] = dict(backend=backend, dynamic=False)
        whole = torch.compile(call, fullgraph=True, **options)
        try:
            whole()
        except torch._dynamo.exc.Unsupported:
            # Cut into pieces at what cannot be traced; the row says so, for such a baseline may be a weak one.
            problem.notes.append("torch.compile breaks the graph")
            return torch.compile(call, **options), leaves
        return whole, leaves

    return make


def _gather_patches(x: Tensor, patch: tuple[int, ...], kept: Tensor) -> Tensor:
    """Kept patches (B, K, P) of a video or a waveform, in one copy. As the reference, but traceable."""
    if x.ndim == 2:
        return x.unflatten(1, (-1, *patch))[:, kept]
    T, H, W = (size // side for size, side in zip(x.shape[1:], patch, strict=False))
    blocks = x.view(x.shape[0], T, patch[0], H, patch[1], W, patch[2], 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return blocks[:, kept // (H * W), kept // W % H, kept % W].flatten(2)


def _gather(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """Gathers the kept patches, normalises them in bfloat16, and leaves the rest to cuBLAS: the plain way to skip what
    DropToken drops. Written for speed: positions and bias are added to the product in one pass, in place of two."""
    shape, leaves = problem.shape, problem.leaves
    assert isinstance(shape, PatchShape)
    x, kept = problem.fixed["x"], problem.fixed["kept"]
    if not shape.pixels:
        x = x[:, : x.shape[1] // shape.patch[0] * shape.patch[0]]

    def call() -> tuple[Tensor, ...]:
        patches = _gather_patches(x, shape.patch, kept)
        weight = leaves["weight"]
        patches = normalise_uint8(patches, weight.dtype) if shape.pixels else patches.to(weight.dtype)
        tokens = F.linear(patches, weight) + (leaves["positions"][kept] + leaves["bias"])
        if dropout > 0:
            tokens = F.dropout(tokens, dropout)
        return (torch.cat([leaves["token"].expand(tokens.shape[0], 1, -1), tokens], dim=1),)

    return call, leaves


def _apart(name: str) -> Provider:
    def make(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
        shape = problem.shape
        assert isinstance(shape, AttentionShape)
        B, N = shape.batch, shape.length
        parts = problem.leaves["qkv"].detach().unflatten(0, (B, N)).unbind(2)
        leaves = {part: x.contiguous().requires_grad_() for part, x in zip("qkv", parts, strict=True)}
        mask = problem.fixed["mask"]
        if "bias" in problem.leaves:
            leaves["bias"] = problem.leaves["bias"]

        def call() -> tuple[Tensor, ...]:
            q, k, v = (leaves[part] for part in "qkv")
            rows = None if mask is None else mask.view(B, N)
            options = dict(mask=rows, bias=leaves.get("bias"), scale=shape.scale, dropout_p=dropout)
            out = attention(q, k, v, backend=name, **options)  # type: ignore[arg-type]
            assert isinstance(out, Tensor)
            return (out,)

        return call, leaves

    return make


def _in_slices(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """Plain PyTorch where the whole matrix does not fit: slices of the items, computed again in the backward pass."""
    leaves, items = problem.leaves, problem.leaves["first_local"].shape[0]
    step = -(-items // problem.parts)
    parts = [slice(first, min(first + step, items)) for first in range(0, items, step)]

    def call() -> tuple[Tensor, ...]:
        calls = [problem.bind(leaves, "torch", 0.0, part) for part in parts]
        return (torch.cat([checkpoint(run, use_reentrant=False)[0] for run in calls]),)

    return call, leaves


def _open_clip(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """The loss of open_clip: all logits in memory, a cross-entropy each way. Not the same loss (the first candidate is
    the positive, and no positive counts twice), but the same products."""
    shape = problem.shape
    assert isinstance(shape, NceShape)
    V, C = shape.videos, shape.candidates
    leaves = {name: problem.leaves[name].detach().clone().requires_grad_() for name in ("first_all", "second_all")}
    texts = torch.arange(V * C, device=problem.device)

    def call() -> tuple[Tensor, ...]:
        # The temperature divides the rows, not the logits, which saves a matrix.
        logits = (leaves["first_all"].view(V, -1) / shape.temperature) @ leaves["second_all"].view(V * C, -1).T
        there = F.cross_entropy(logits, texts[: V * C : C])
        back = F.cross_entropy(logits.T, texts // C)
        return ((there + back) / 2,)

    return call, leaves
