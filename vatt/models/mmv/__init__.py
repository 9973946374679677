"""The convolutional baseline that the paper compares with (MMV, Alayrac et al. 2020; official ``model_arch`` mmv_fac):
Inception I3D on pixels and a ResNet on log-mel spectrograms. Text model and heads are those of VATT.

Convolutions run in cuDNN's or oneDNN's channels-last kernels; there are no kernels of our own.
"""

from vatt.models.mmv.i3d import I3D
from vatt.models.mmv.layers import ConvBackbone
from vatt.models.mmv.resnet import ResNet

__all__ = ["I3D", "ConvBackbone", "ResNet"]
