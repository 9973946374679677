"""VATT (Video-Audio-Text Transformer, Akbari et al., NeurIPS 2021) in PyTorch.

The names below are imported when they are first used, so that ``import vatt`` does not wait for PyTorch.
"""

from typing import TYPE_CHECKING

from vatt.lazy import on_first_use

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

if not TYPE_CHECKING:  # where a type checker would take any name for one of these
    __getattr__, __dir__ = on_first_use(__name__)
