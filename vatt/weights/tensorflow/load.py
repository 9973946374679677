"""Weights of the official (TensorFlow) implementation: into our modules, and gradients back into its layout.

Loading accounts for every variable. A path is relative to the module; `from_checkpoint` cuts a checkpoint's keys down
to such paths, and `for_backbone` picks one backbone out of a pretraining checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vatt.models.positions import resample
from vatt.weights.tensorflow.names import OfficialError, Variable, variables

__all__ = ["OfficialError", "for_backbone", "from_checkpoint", "gradients", "load_official", "variables"]

_ROOT = "model/layer_with_weights-0/"
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"


def load_official(module: nn.Module, arrays: Mapping[str, Any], *, resample_positions: bool = False) -> None:
    """Fills all parameters and running statistics of ``module`` from official variables.

    Args:
        module: a backbone, head, `VATT`, `Pretraining` or `Classifier`.
        arrays: object-graph path relative to the module -> array.
        resample_positions: resample position tables of another length, as the official restore does.

    Raises:
        OfficialError: a variable is missing or left over, or its shape differs; nothing was written then.
    """
    wanted = variables(module)
    missing, unused = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
    if missing or unused:
        raise OfficialError(f"missing variables: {missing}; unused variables: {unused}")
    values = {path: _fitted(path, variable, arrays[path], resample_positions) for path, variable in wanted.items()}
    for path, variable in wanted.items():
        variable.store(values[path])


def _fitted(path: str, variable: Variable, array: Any, resample_positions: bool) -> Tensor:
    value = torch.as_tensor(np.asarray(array))
    tables = variable.is_position_table and value.ndim == 2 and value.shape[1] == variable.shape[1]
    if resample_positions and tables:
        value = resample(value, variable.shape[0])
    if tuple(value.shape) != variable.shape:
        raise OfficialError(f"{path}: official shape {tuple(value.shape)}, this module needs {variable.shape}")
    return value


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """Gradients of the parameters of ``module`` that have one, in the official layout, by path."""
    grads = {id(p): p.grad for p in module.parameters() if p.grad is not None}
    return {
        path: variable.to_official(grads[id(variable.tensor)])
        for path, variable in variables(module).items()
        if id(variable.tensor) in grads
    }


def from_checkpoint(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The model variables of a checkpoint, by path; optimizer slots and counters are left out."""
    return {
        key.removeprefix(_ROOT).removesuffix(_LEAF): value
        for key, value in arrays.items()
        if key.startswith(_ROOT) and key.endswith(_LEAF) and "/.OPTIMIZER_SLOT/" not in key
    }


def for_backbone(arrays: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """The variables of one backbone out of a pretraining checkpoint, as the standalone backbone names them.

    Args:
        arrays: path -> array, from `from_checkpoint`, of separate or unified backbones.
        modality: "video", "audio", or (separate backbones) "text".

    Raises:
        OfficialError: the checkpoint has no such backbone.
    """
    short = {"video": "vid", "audio": "aud", "text": "txt"}[modality]
    unified = "_base_layer/unified_backbone/unified_transformer/"
    separate = f"_base_layer/{short}_backbone/" + ("" if modality == "text" else "_base/")
    found = {path.removeprefix(separate): array for path, array in arrays.items() if path.startswith(separate)}
    if modality != "text":
        patches = "voxel_to_patch" if modality == "video" else "wave_to_patch"
        renames = {
            f"{short}_agg_embedding": "agg_embedding",
            f"raw_to_embeddings/{modality}/": f"{patches}/",
            f"pre_proj/{modality}/": "pre_proj/",
            f"post_proj/{modality}/": "post_proj/",
            f"pos_embedding_lookup/{modality}/": "pos_embedding_lookup/",
            "tx/": "tx/",
        }
        for path, array in arrays.items():
            inner = path.removeprefix(unified)
            for prefix, new in renames.items():
                if path.startswith(unified) and inner.startswith(prefix):
                    found[new + inner.removeprefix(prefix)] = array
    if not found:
        raise OfficialError(f"no {modality} backbone among {len(arrays)} variables")
    return found
