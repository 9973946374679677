"""The operations of the project, each behind one function with an explicit ``backend=`` argument.

A sub-package holds ``reference.py`` (plain PyTorch: the oracle of the tests, and the path of the CPU) and the public
function in ``__init__.py``. ``backends.py`` keeps the list of backends, chooses one, and says why others are refused.
This package knows nothing of VATT and needs torch alone.
"""

from .attention import attention, packed_attention
from .mlp import dense_gelu, mlp
from .nce import nce
from .norm import layer_norm, rms_norm
from .patch_embed import add_positions, patch_embed
from .registry import BackendError, Call, Choice, backends, choose, explain, operations, pick

__all__ = [
    "BackendError",
    "Call",
    "Choice",
    "add_positions",
    "attention",
    "backends",
    "choose",
    "dense_gelu",
    "explain",
    "layer_norm",
    "mlp",
    "nce",
    "operations",
    "packed_attention",
    "patch_embed",
    "pick",
    "rms_norm",
]
