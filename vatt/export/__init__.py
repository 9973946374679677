"""One part of a model as a file that runs without this project: a program of torch.export, or ONNX.

`export_part` is what ``vatt export`` calls. The file takes one window a row, as `vatt.inference` makes it of a file:
pixels, a waveform or word ids; it gives the embeddings of the common spaces, or the probabilities of a classifier, and
says inside what it needs (`about`).
"""

from vatt.export.about import KEY, about
from vatt.export.job import OPSET, Exported, ExportError, export_part
from vatt.export.parts import ExportedPart, example_input, part_of

__all__ = [
    "KEY",
    "OPSET",
    "ExportError",
    "Exported",
    "ExportedPart",
    "about",
    "example_input",
    "export_part",
    "part_of",
]
