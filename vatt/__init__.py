"""VATT (Video-Audio-Text Transformer, Akbari et al., NeurIPS 2021) in PyTorch.

The names below are imported when they are first used, so that ``import vatt`` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vatt.data import Clip, ManifestError, MediaError, TextError, read_clips
    from vatt.inference import SpaceError
    from vatt.models import VATT, Classifier
    from vatt.weights.folder import PretrainedError, load_pretrained, save_pretrained

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

_PLACES = {
    "VATT": "vatt.models",
    "Classifier": "vatt.models",
    "Clip": "vatt.data",
    "ManifestError": "vatt.data",
    "MediaError": "vatt.data",
    "PretrainedError": "vatt.weights.folder",
    "SpaceError": "vatt.inference",
    "TextError": "vatt.data",
    "load_pretrained": "vatt.weights.folder",
    "read_clips": "vatt.data",
    "save_pretrained": "vatt.weights.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vatt' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
