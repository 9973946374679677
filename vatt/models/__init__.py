"""The models: backbones, heads, and the whole of VATT."""

from typing import TYPE_CHECKING

from vatt.lazy import on_first_use

if TYPE_CHECKING:
    from vatt.models.backbones import Backbone, SpectrogramBackbone, VideoBackbone, WaveformBackbone
    from vatt.models.classifier import Classifier
    from vatt.models.config import ClassifierConfig, VATTConfig
    from vatt.models.mmv import I3D, ConvBackbone, ResNet
    from vatt.models.text import TextBackbone
    from vatt.models.unified import UnifiedBackbone
    from vatt.models.vatt import VATT

__all__ = [
    "I3D",
    "VATT",
    "Backbone",
    "Classifier",
    "ClassifierConfig",
    "ConvBackbone",
    "ResNet",
    "SpectrogramBackbone",
    "TextBackbone",
    "UnifiedBackbone",
    "VATTConfig",
    "VideoBackbone",
    "WaveformBackbone",
]

if not TYPE_CHECKING:  # where a type checker would take any name for one of these
    __getattr__, __dir__ = on_first_use(__name__)
