"""VATT (Video-Audio-Text Transformer, Akbari et al., NeurIPS 2021) in PyTorch.

The names below are imported when they are first used, so that ``import vatt`` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vatt.data import Clip, ManifestError, MediaError, TextError, read_clips
    from vatt.inference import VATT, Classifier, SpaceError, load_pretrained, save_pretrained
    from vatt.weights.folder import PretrainedError

__version__ = "0.1.0"

__all__ = [
    "VATT",
    "Classifier",
    "Clip",
    "ManifestError",
    "MediaError",
    "PretrainedError",
    "SpaceError",
    "TextError",
    "__version__",
    "load_pretrained",
    "read_clips",
    "save_pretrained",
]

_MODULES = {
    "vatt.data": ("Clip", "ManifestError", "MediaError", "TextError", "read_clips"),
    "vatt.inference": ("VATT", "Classifier", "SpaceError", "load_pretrained", "save_pretrained"),
    "vatt.weights.folder": ("PretrainedError",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'vatt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
