"""Fourier transforms in ONNX that keep the precision of float32.

onnxruntime computes the operator DFT of a length that is no power of two by Bluestein's algorithm in float32: its error
is a hundred times that of PyTorch's (1.6e-5 of the largest value at 341 samples, 2.7e-7 at 2048), and a log-mel
spectrogram carries it to the outputs. Such a transform is written as the product with its matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


def translations(program: torch.export.ExportedProgram) -> dict[Any, Callable[..., Any]] | None:
    """For ``custom_translation_table`` of PyTorch's exporter; None where its own translation is as good."""
    inner = {torch.ops.aten.fft_rfft.default, torch.ops.aten._fft_r2c.default}
    graphs = [each.graph for each in program.graph_module.modules() if isinstance(each, torch.fx.GraphModule)]
    lengths = {
        int(node.args[0].meta["val"].shape[-1])
        for node in (node for graph in graphs for node in graph.nodes)  # blocks without autocast have their own
        if node.op == "call_function" and node.target in inner
    }
    if all(length & (length - 1) == 0 for length in lengths):
        return None
    return {torch.ops.aten._fft_r2c.default: _by_matrix}


def fourier_matrix(length: int) -> np.ndarray:
    """float32 (length, 2 F) for F = length // 2 + 1 frequencies: real and imaginary parts in turns."""
    angle_LF = -2 * np.pi * np.outer(np.arange(length), np.arange(length // 2 + 1)) / length
    return np.stack([np.cos(angle_LF), np.sin(angle_LF)], axis=-1).reshape(length, -1).astype(np.float32)


def _by_matrix(x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    """(..., L) -> (..., F, 2), as the exporter keeps complex numbers."""
    import onnxscript

    op: Any = onnxscript.opset18
    axes, rank = [int(axis) for axis in dim], len(x.shape)
    if axes not in ([-1], [rank - 1]) or normalization != 0 or not onesided:
        raise ValueError("aten._fft_r2c of another axis than the last, normalised, or of both sides")
    length = int(x.shape[-1])
    matrix = op.Constant(value=onnxscript.ir.tensor(fourier_matrix(length), name=f"fourier_{length}"))
    sizes = op.Constant(value_ints=[0] * (rank - 1) + [length // 2 + 1, 2])  # 0 keeps a size: the batch stays free
    return op.Reshape(op.MatMul(x, matrix), sizes)
