"""Operations of other packages as providers of the benchmark, beside those of `bench.peers`.

Attention has its rivals there. There is none for the MLP: Liger has gated perceptrons only, and its GELU is the tanh
approximation, which is another function than the exact GELU of the models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.evaluate import error, worst
from bench.peers import Provider
from bench.problems import Leaves, Problem
from bench.rivals.blocks import timm_block, torch_layer
from bench.rivals.clip_loss import clip_loss
from bench.rivals.norms import liger_norm, liger_sum_and_norm
from bench.rivals.patches import conv_then_drop, timm_patches
from bench.shapes import NormShape, Shape

LIGER = "liger"
LIGER_SUM = "liger, fused sum"
CONV = "conv, then drop"
TIMM = "timm"
LAYER = "torch.nn"
CLIP = "open_clip package"

_RIVALS: dict[str, dict[str, Provider]] = {
    "patch_embed": {CONV: conv_then_drop, TIMM: timm_patches},
    "norm": {LIGER: liger_norm, LIGER_SUM: liger_sum_and_norm},
    "block": {TIMM: timm_block, LAYER: torch_layer},
    "nce": {CLIP: clip_loss},
}
# Another function than ours: it chooses its own patches, or it is another loss.
_INCOMPARABLE = {("patch_embed", TIMM), ("nce", CLIP)}
_NEED_GPU = {LIGER, LIGER_SUM}


def op_rivals(problem: Problem) -> dict[str, Provider]:
    """The rivals of the operation of ``problem`` by name; nothing is imported yet.

    A provider raises ImportError that names the package if it is missing, and ValueError if it cannot apply the
    dropout that is asked for.
    """
    return _of(problem.shape)


def rival_names(shape: Shape, device: torch.device) -> tuple[str, ...]:
    """Those of `op_rivals` that can run on ``device``, whether or not their packages are installed."""
    return tuple(name for name in _of(shape) if device.type == "cuda" or name not in _NEED_GPU)


def _of(shape: Shape) -> dict[str, Provider]:
    found = dict(_RIVALS.get(shape.op, {}))
    if isinstance(shape, NormShape) and shape.centred:
        del found[LIGER_SUM]  # Liger fuses the residual sum with its RMS norm only
    return found


def rival_error(op: str, name: str, outputs: tuple[Tensor, ...], want: Leaves) -> float | None:
    """||out - want|| / ||want||, the largest of the outputs of a rival.

    Args:
        op, name: the operation and the rival.
        outputs: what its call returned, without dropout.
        want: what the plain backend returned, by name.

    Returns:
        None where the rival computes something else. A block of another package returns the sum of what ours returns
        as stream and update, and is compared with that.
    """
    if (op, name) in _INCOMPARABLE:
        return None
    expected = [want["stream"] + want["update"]] if op == "block" else list(want.values())
    return worst([error(out.detach(), value) for out, value in zip(outputs, expected, strict=True)])
