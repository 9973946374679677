"""Checkpoints of the official code, in TensorFlow 2: a reader of their files, and their conversion to our folders.

TensorFlow is not needed. It is 600 MB, the releases that wrote these files no longer install beside a current Python,
and what has to be read is small and has not changed since 2016: a sorted table of protocol buffers (``.index``) that
says where in the ``.data`` files each array lies. `vatt.weights.tensorflow.convert.convert` converts a
checkpoint; `Bundle` reads the arrays of any.
"""

from vatt.weights.tensorflow.bundle import Bundle
from vatt.weights.tensorflow.table import TensorFlowError

__all__ = ["Bundle", "TensorFlowError"]
