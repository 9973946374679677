"""Golden data of the official implementation: loading, configurations, tolerances.

Everything is read from the files: sizes from their `config`, names from their arrays. So the tests pass on other files
of the same layout. ``tests/reference/README.md`` describes the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vatt.models.config import TextConfig, VATTConfig
from vatt.weights.tensorflow import config as official_config
from vatt.weights.tensorflow.variables import gradients, load_variables

REFERENCE = Path(os.environ.get("VATT_REFERENCE", Path(__file__).parents[1] / "reference"))

FORWARD = 1e-5  # of the largest value of an array
GRADIENT = 1e-4  # of the largest value of an array
# "full_*.npz in training mode are amplified by batch statistics over only a few samples: changing inputs and parameters
# by one float32 rounding moves outputs by up to 3e-5, and gradients by up to 5e-5 of each array's largest value."
# (README, Numerical tolerance.) Both sides of the comparison carry that.
FORWARD_TRAINING = 6e-5


@dataclass
class Golden:
    """One .npz file, taken apart by the first component of its names."""

    config: dict[str, Any]
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    params: dict[str, np.ndarray] = field(default_factory=dict)  # by Keras name
    grads: dict[str, np.ndarray] = field(default_factory=dict)  # by Keras name
    paths: dict[str, str] = field(default_factory=dict)  # Keras name -> object-graph path

    def tensor(self, name: str) -> Tensor:
        """An input as a tensor; word ids as int64."""
        value = torch.from_numpy(np.array(self.inputs[name]))
        return value if value.is_floating_point() else value.long()

    @property
    def by_path(self) -> dict[str, np.ndarray]:
        return {self.paths[name]: value for name, value in self.params.items()}


def load(name: str) -> Golden:
    """The golden file NAME.npz; ``name`` may hold a folder."""
    sections = {"input": "inputs", "output": "outputs", "param": "params", "grad": "grads"}
    with np.load(REFERENCE / f"{name}.npz") as archive:
        golden = Golden(json.loads(str(archive["config"])) if "config" in archive else {})
        if "param_paths" in archive:
            golden.paths = json.loads(str(archive["param_paths"]))
        for key in archive.files:
            section, _, rest = key.partition("/")
            if section in sections:
                getattr(golden, sections[section])[rest] = archive[key]
    return golden


def fill(cls: type, official: Mapping[str, Any], **ours: Any) -> Any:
    """Our configuration ``cls`` with the official fields; none may be dropped silently. Dropout is off."""
    return official_config.fill(cls, official, **{"position_dropout_rate": 0.0, **ours})


def text_config(official: Mapping[str, Any], **ours: Any) -> TextConfig:
    return official_config.text_config(official, **{"position_dropout_rate": 0.0, **ours})


def vatt_config(parts: Mapping[str, Any], arch: str, loss: Mapping[str, Any] | None = None, **ours: Any) -> VATTConfig:
    """A whole model from the overrides that the official files record. ``ours``: for every backbone."""
    head = {"kind": "fac" if arch.endswith("FAC") else "joint", **parts["head"]}
    config = official_config.from_parts(parts, arch, head, loss)
    if config.backbone == "convolutional":
        return config
    changes = {"position_dropout_rate": 0.0, **ours}
    sections = ("unified",) if config.backbone == "unified" else ("video", "waveform", "text")
    return replace(config, **{name: replace(getattr(config, name), **changes) for name in sections})


def loaded(module: nn.Module, golden: Golden) -> nn.Module:
    """``module`` in evaluation mode with the golden parameters, every one of them accounted for."""
    load_variables(module, golden.by_path)
    return module.eval()


def assert_close(
    actual: Any, expected: np.ndarray, tolerance: float = FORWARD, name: str = "", atol: float = 0.0
) -> None:
    """Differences are at most ``tolerance`` times the largest expected value (plus ``atol``)."""
    actual = actual.detach().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    limit = tolerance * np.abs(expected).max(initial=0.0) + atol
    assert error <= limit, f"{name}: off by {error:.3g}, allowed {limit:.3g}"


def is_zero_in_exact_arithmetic(path: str) -> bool:
    """README, Numerical tolerance: "every attention k bias [...] and the final LayerNorm beta of the video branch in
    full_tx_fac (a constant shift before BN)" hold only rounding noise."""
    return path.endswith("/k/bias") or path == "_base_layer/vid_backbone/_base/tx/final_layer_norm/beta"


def assert_gradients(module: nn.Module, golden: Golden, prefix: str = "", tolerance: float = GRADIENT) -> None:
    """The gradients of ``module`` against all recorded ones (those whose Keras name follows ``prefix``)."""
    ours = gradients(module)
    recorded = {
        golden.paths[name.removeprefix(prefix)]: grad
        for name, grad in golden.grads.items()
        if name.startswith(prefix) and name.removeprefix(prefix) in golden.paths
    }
    assert recorded
    assert recorded.keys() == ours.keys()
    typical = float(np.median([np.abs(grad).max() for grad in recorded.values()]))
    for path, grad in recorded.items():
        # Rounding noise is judged against the typical gradient of the file.
        atol = GRADIENT * typical if is_zero_in_exact_arithmetic(path) else 0.0
        assert_close(ours[path], grad, 0.0 if atol else tolerance, path, atol)
