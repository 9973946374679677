"""The models: backbones, heads, and the whole of VATT."""

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
