"""The operations of the project, each behind one function with an explicit ``backend=`` argument.

An operation is a sub-package of five files: ``__init__`` (the public function), ``reference`` (plain PyTorch: the
oracle of the tests), ``op`` (operators and their gradients), ``triton_launch`` and ``triton_kernels``; and further
backends, such as ``cpu`` where the reference is slow in training on a CPU. ``registry`` knows all backends, selects
one, and says why others are refused; ``runtime`` knows where Triton can run. What "auto" takes on a GPU is measured
there: ``selection`` checks backends, times them, chooses, and keeps what it chose. This package knows nothing of VATT
and needs torch alone: Triton is imported when a kernel runs.
"""

from .attention import attention, packed_attention
from .frames_to_patches import clips_from_planes, frames_to_patches
from .mlp import dense_gelu, mlp
from .nce import nce
from .norm import layer_norm, rms_norm
from .patch_embed import add_positions, patch_embed
from .registry import (
    Availability,
    BackendError,
    Call,
    backends,
    dispatch,
    explain,
    load_decisions_with,
    operations,
    select,
)
from .selection.cache import install_cached

__all__ = [
    "Availability",
    "BackendError",
    "Call",
    "add_positions",
    "attention",
    "backends",
    "clips_from_planes",
    "dense_gelu",
    "dispatch",
    "explain",
    "frames_to_patches",
    "layer_norm",
    "mlp",
    "nce",
    "operations",
    "packed_attention",
    "patch_embed",
    "rms_norm",
    "select",
]

# Not by the registry itself: the cache needs the selection, which needs the registry.
load_decisions_with(install_cached)
