"""Problems as calls: random inputs for what a model asks of an operation, at its own size or at a small one.

A small problem has few items and short sequences, but the widths, the options and the remainders modulo 16 of the whole
one, which Triton compiles for: what is compiled to check it serves the whole one too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import attention, packed_attention
from ..frames_to_patches import clips_from_planes, frames_to_patches
from ..frames_to_patches.reference import frame_bytes
from ..mlp import dense_gelu, mlp
from ..nce import Rows, nce
from ..norm import layer_norm, rms_norm
from ..patch_embed import patch_embed
from ..registry import Problem

Tensors = dict[str, Tensor]
TEMPERATURE = 0.07
EPSILON = 1e-6
_COLOUR = ((1.16, 0.0, 1.6, -223.0), (1.16, -0.39, -0.81, 136.0), (1.16, 2.02, 0.0, -277.0))  # about that of BT.601


@dataclass
class Inputs:
    """``leaves``: tensors with a gradient, by name; ``fixed``: those without. ``call`` takes both in one dictionary,
    the name of a backend, the rate of dropout and its seed, and gives the outputs."""

    leaves: Tensors
    fixed: Tensors
    call: Callable[[Tensors, str, float, Tensor | None], Any]
    precision: torch.dtype | None = None  # of products, where it is not the type of the leaves

    def run(self, backend: str, p: float, seed: Tensor | None, wider: torch.dtype | None = None) -> Tensors:
        """Outputs and, where a gradient is asked for, those of the leaves ("grad NAME"); in the type ``wider`` all is
        computed on the same numbers. The gradients of the outputs are random and always the same."""
        leaves = {name: x.detach().to(wider or x.dtype).requires_grad_() for name, x in self.leaves.items()}
        fixed = {name: x.to(wider) if wider and x.is_floating_point() else x for name, x in self.fixed.items()}
        found = self.call(leaves | fixed, backend, p, seed)
        outputs = found if isinstance(found, tuple) else (found,)
        named = {f"output {i}" if i else "output": out.detach() for i, out in enumerate(outputs)}
        if not outputs[0].requires_grad:
            return named
        kind = next(iter(self.leaves.values())).dtype
        grads = [_noise(out.shape, out.device, 90 + i).to(kind).to(out.dtype) for i, out in enumerate(outputs)]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
        pairs = zip(leaves, gradients, strict=True)
        return named | {f"grad {name}": grad for name, grad in pairs if grad is not None}


class Draw:
    """Random inputs on a device, always the same for a seed."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Of the type of the problem, unless told otherwise."""
        return (torch.randn(shape, generator=self.generator, device=self.device) * std).to(dtype or self.dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device, dtype=dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)


def _noise(shape: torch.Size, device: torch.device, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device=device).manual_seed(seed), device=device)


def inputs(problem: Problem, device: torch.device, seed: int = 0) -> Inputs:
    """Random inputs of a problem. Raises KeyError for an operation that this file does not know."""
    made = _MAKERS[problem.op](dict(problem.facts), problem.count, Draw(device, problem.dtype, seed))
    if not dict(problem.facts).get("gradient", True):
        made.fixed |= made.leaves
        made.leaves = {}
    return made


def knows(op: str) -> bool:
    """Whether this file makes inputs for ``op``."""
    return op in _MAKERS


def small(problem: Problem) -> Problem:
    """A problem of the same kind that takes little time and memory."""
    facts = dict(problem.facts)
    most = {"nce": 48, "patch_embed": 2, "frames_to_patches": 3}.get(
        problem.op, 16 if "attention" in problem.op else 112
    )
    if "sequences" in facts:
        facts["sequences"] = tuple((min(share, 8), _short(length), flag) for share, length, flag in facts["sequences"])
    if "ranks" in facts:
        facts["ranks"] = min(2, facts["ranks"])
    count = problem.count if problem.count <= most + 16 else most + problem.count % 16
    return replace(problem, facts=tuple(sorted(facts.items())), count=count)


def _short(length: int) -> int:
    return length if length <= 160 else 128 + length % 16


def words(problem: Problem) -> str:
    """Its sizes and what is special about it, short."""
    facts, count = dict(problem.facts), problem.count
    parts = []
    if "sequences" in facts:
        for share, length, flag in facts["sequences"]:
            parts.append(f"{share * count} x {length}{' masked' if flag else ''}")
        text = " + ".join(parts) + (" biased" if facts.get("bias") else "")
    elif "frames" in facts:
        frames, capacity = facts["frames"]
        return f"{count} x {frames} frames of up to {capacity} bytes to {facts['size']}x{facts['size']}, forward"
    elif "sizes" in facts:
        text = f"{count} x {'x'.join(map(str, facts['sizes']))}"
    elif "candidates" in facts:
        text = f"{count} x {facts['ranks']} clips, {' and '.join(map(str, facts['candidates']))} rows each"
    else:
        text = f"{count} x {facts.get('width', '?')}" + (f" to {facts['inner']}" if "inner" in facts else "")
        text += " after a sum" if facts.get("residual") else ""
    return text + ("" if facts.get("gradient", True) else ", forward")


def _packed(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    segments = tuple((share * count, length) for share, length, _ in facts["sequences"])
    masked = tuple(flag for _, _, flag in facts["sequences"])
    T, H, E = sum(n * length for n, length in segments), facts["heads"], facts["head_dim"]
    leaves, fixed = {"qkv": draw.normal(T, 3, H, E)}, {}
    if facts["bias"]:
        leaves["bias"] = draw.normal(H, segments[0][1], segments[0][1], std=0.5)
    if facts["mask"]:
        seen = [_seen(draw, n, length) if flag else torch.ones(n, length, dtype=torch.bool, device=draw.device)
                for (n, length), flag in zip(segments, masked, strict=True)]  # fmt: skip
        fixed["mask"] = torch.cat([x.flatten() for x in seen])

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        options: dict[str, Any] = dict(mask=x.get("mask"), bias=x.get("bias"), scale=E**-0.5, dropout_p=p, seed=seed)
        return packed_attention(x["qkv"], segments, masked=masked if "mask" in x else None, backend=backend, **options)

    return Inputs(leaves, fixed, call)


def _seen(draw: Draw, items: int, length: int) -> Tensor:
    """(items, length), True for keys that may be seen: a first part of random length of each item."""
    return torch.arange(length, device=draw.device) < draw.integers(1, length + 1, items, 1)


def _attention(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    ((share, N, _),) = facts["sequences"]
    B, H, E = share * count, facts["heads"], facts["head_dim"]
    leaves = {name: draw.normal(B, N, H, E) for name in "qkv"}
    if facts["bias"]:
        leaves["bias"] = draw.normal(H, N, N, std=0.5)
    fixed = {"mask": _seen(draw, B, N)} if facts["mask"] else {}

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        options: dict[str, Any] = dict(mask=x.get("mask"), bias=x.get("bias"), scale=E**-0.5, dropout_p=p, seed=seed)
        return attention(x["q"], x["k"], x["v"], return_weights=facts["return_weights"], backend=backend, **options)

    return Inputs(leaves, fixed, call)


def _patches(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    sizes, patch, D = facts["sizes"], facts["patch"], facts["width"]
    grid = [size // side for size, side in zip(sizes, patch, strict=False)]
    N, P = math.prod(grid), math.prod(patch) * math.prod(sizes[len(patch) :])
    if facts["gathered"]:
        N, P = facts["patches"], sizes[-1]
    signal = (
        draw.integers(0, 256, count, *sizes, dtype=torch.uint8)
        if facts["input"] == torch.uint8
        else draw.normal(count, *sizes, dtype=facts["input"])
    )
    leaves, fixed = {"weight": draw.normal(D, P, std=P**-0.5)}, Tensors()
    (leaves if facts["input_gradient"] else fixed)["x"] = signal
    for name, shape in (("bias", (D,)), ("positions", (N, D)), ("token", (D,))):
        if facts[name]:
            leaves[name] = draw.normal(*shape)
    if facts["kept"] is not None:
        kept, per_item = facts["kept"]
        order = draw.uniform(count if per_item else 1, N).argsort(1)[:, :kept]
        fixed["kept"] = order if per_item else order[0]

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        options: dict[str, Any] = {name: x.get(name) for name in ("kept", "positions", "token")}
        options |= dict(dropout_p=p, seed=seed, gathered=facts["gathered"], backend=backend)
        return patch_embed(x["x"], x["weight"], x.get("bias"), patch, **options)

    return Inputs(leaves, fixed, call)


def _frames(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    (T, C), patch, size = facts["frames"], facts["patch"], facts["size"]
    # Pictures of several shapes, as large as a frame has room for, of which a random part is read.
    shapes = [_fitting(C, aspect) for aspect in (16 / 9, 1.0, 9 / 16)]
    sizes = torch.tensor([shapes[b % 3] for b in range(count)], device=draw.device, dtype=torch.int32).view(count, 2)
    extent = ((0.3 + 0.7 * draw.uniform(count, 2)) * sizes).floor().clamp(min=1)
    start = (draw.uniform(count, 2) * (sizes - extent)).floor()
    fixed = {"planes": draw.integers(0, 256, count, T, C, dtype=torch.uint8), "sizes": sizes}
    fixed["crop"] = torch.cat([start, extent], 1).to(draw.dtype)
    fixed["flip"] = draw.integers(0, 2, count, dtype=torch.uint8)
    colour = torch.tensor(_COLOUR, device=draw.device) * (0.9 + 0.2 * draw.uniform(count, 1, 1))
    fixed["colour"] = colour.to(draw.dtype)
    if facts["kept"] is not None:
        (kept, per_item), grid = facts["kept"], (T // patch[0]) * (size // patch[1]) * (size // patch[2])
        order = draw.uniform(count if per_item else 1, grid).argsort(1)[:, :kept]
        fixed["kept"] = order if per_item else order[0]

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        arguments = x["planes"], x["sizes"], x["crop"], x["flip"], x["colour"]
        if facts["whole"]:
            return clips_from_planes(*arguments, size=size, backend=backend)
        return frames_to_patches(*arguments, size=size, patch=patch, kept=x.get("kept"), backend=backend)

    return Inputs({}, fixed, call)


def _fitting(capacity: int, aspect: float) -> tuple[int, int]:
    """Height and width of about an aspect that fit into the bytes of a frame."""
    height = max(1, int((capacity / 1.5 / aspect) ** 0.5))
    width = max(1, int(height * aspect))
    while width > 1 and frame_bytes(height, width) > capacity:
        width -= 1
    return height, width


def _norm(centred: bool) -> Callable[[dict[str, Any], int, Draw], Inputs]:
    def make(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
        D = facts["width"]
        leaves = {"x": draw.normal(count, D), "weight": 1 + draw.normal(D, std=0.1)}
        if centred:
            leaves["bias"] = draw.normal(D)
        if facts["residual"]:
            leaves["residual"] = draw.normal(count, D)

        def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
            options: dict[str, Any] = dict(residual=x.get("residual"), dropout_p=p, seed=seed, backend=backend)
            if centred:
                return layer_norm(x["x"], x["weight"], x["bias"], EPSILON, **options)
            return rms_norm(x["x"], x["weight"], EPSILON, **options)

        return Inputs(leaves, {}, call)

    return make


def _mlp(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    D, M = facts["width"], facts["inner"]
    leaves = {"x": draw.normal(count, D)}
    leaves["weight_in"] = draw.normal(M, D, std=D**-0.5)
    leaves["weight_out"] = draw.normal(D, M, std=M**-0.5)
    if facts["bias"]:
        leaves |= {"bias_in": draw.normal(M), "bias_out": draw.normal(D)}

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        parameters = x["weight_in"], x.get("bias_in"), x["weight_out"], x.get("bias_out")
        return mlp(x["x"], *parameters, dropout_p=p, seed=seed, backend=backend)

    return Inputs(leaves, {}, call)


def _dense_gelu(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    D, M = facts["width"], facts["inner"]
    leaves = {"x": draw.normal(count, D), "weight": draw.normal(M, D, std=D**-0.5)}
    if facts["bias"]:
        leaves["bias"] = draw.normal(M)

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        return dense_gelu(x["x"], x["weight"], x.get("bias"), backend=backend)

    return Inputs(leaves, {}, call)


def _nce(facts: dict[str, Any], count: int, draw: Draw) -> Inputs:
    others, leaves, fixed = count * (facts["ranks"] - 1), {}, {}
    precision = getattr(torch, facts["precision"])
    sides = list(zip(("first", "second"), facts["candidates"], facts["masks"], strict=True))
    for name, candidates, masked in sides:
        leaves[name] = F.normalize(draw.normal(count, candidates, facts["width"]).float(), dim=-1).to(draw.dtype)
        far = draw.normal(others, candidates, facts["width"]).float()
        fixed[f"{name} of others"] = F.normalize(far, dim=-1).to(draw.dtype)
        if masked:
            fixed[f"{name} mask"] = (draw.uniform(count + others) < 0.9).float()

    def rows(x: Tensors, name: str) -> Rows:
        # Alone, a rank compares its rows with themselves.
        local, mask = x[name], x.get(f"{name} mask")
        every = torch.cat([local, x[f"{name} of others"]]) if others else local
        return Rows(local, every, None if mask is None else mask[:count], mask)

    def call(x: Tensors, backend: str, p: float, seed: Tensor | None) -> Any:
        options: dict[str, Any] = dict(kind=facts["kind"], precision=precision, backend=backend)
        return nce(rows(x, "first"), rows(x, "second"), temperature=TEMPERATURE, **options)

    return Inputs(leaves, fixed, call, precision)


_MAKERS: dict[str, Callable[[dict[str, Any], int, Draw], Inputs]] = {
    "packed_attention": _packed,
    "attention": _attention,
    "patch_embed": _patches,
    "frames_to_patches": _frames,
    "nce": _nce,
    "mlp": _mlp,
    "dense_gelu": _dense_gelu,
    "layer_norm": _norm(centred=True),
    "rms_norm": _norm(centred=False),
}
