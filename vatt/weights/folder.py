"""A model as a folder: model.safetensors, config.json, and (pretraining models) tokenizer.json.

``train/pretrain.py`` and ``train/finetune.py`` leave such a folder, ``vatt convert`` makes one of a TensorFlow
checkpoint, and ``VATT.from_pretrained`` and ``Classifier.from_pretrained`` read it. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.config import ConfigError, from_dict, load, to_dict
from vatt.data.splits import SHARE
from vatt.data.tokenizer import Tokenizer
from vatt.errors import UserError
from vatt.files import appearing
from vatt.models.classifier import Classifier
from vatt.models.config import ClassifierConfig, VATTConfig, saved_values
from vatt.models.vatt import VATT

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Model = TypeVar("Model", bound=VATT | Classifier)


class PretrainedError(UserError, ValueError):
    """A model folder that cannot be used. The message names the file, and the tensor with both shapes."""


def save_pretrained(
    model: VATT | Classifier,
    folder: str | Path,
    state: Mapping[str, Tensor] | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes a model into ``folder``, which is made if it is not there.

    Args:
        state: weights in place of the model's own, by the names of its ``state_dict``.

    Raises:
        ValueError: a classifier whose configuration is not known, since `Classifier.from_config` did not make it.
    """
    if model.config is None:
        raise ValueError("model: has no configuration; make it with Classifier.from_config")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in (state or model.state_dict()).items()}
    (folder / WEIGHTS).unlink(missing_ok=True)  # a folder without weights holds no model: they go first and come last
    (folder / CONFIG).write_text(json.dumps(to_dict(model.config), indent=1), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(folder)
    with appearing(folder / WEIGHTS) as partly:
        save_file(weights, partly)
        partly.chmod((folder / CONFIG).stat().st_mode)  # safetensors lets in nobody else


def build_model(config: VATTConfig | ClassifierConfig, backend: str = "auto") -> VATT | Classifier:
    """The module of a configuration, with random weights. Raises ValueError: it cannot be built."""
    return VATT(config, backend) if isinstance(config, VATTConfig) else Classifier.from_config(config, backend)


def load_pretrained(folder: str | Path, backend: str = "auto") -> VATT | Classifier:
    """The module in a folder, on the CPU in float32, in evaluation mode.

    Args:
        folder: as `save_pretrained` writes it; the folder of a whole run is taken too (its ``model/``).
        backend: of all operations, see `vatt.kernels`.

    Raises:
        PretrainedError: a file is missing or unreadable, of another model, or holds a weight that is not finite.
    """
    return load_model(folder, lambda config: build_model(config, backend))


def load_model(folder: str | Path, build: Callable[[Any], Model]) -> Model:
    """As `load_pretrained`, into the module that ``build`` makes of the configuration."""
    folder = model_folder(folder)
    config = read_config(folder)
    try:
        model = build(config)
    except ValueError as error:
        raise PretrainedError(f"{folder / CONFIG}: {error}") from error
    _fill(model, read_weights(folder), folder / WEIGHTS)
    model.eval()
    return model


def model_folder(folder: str | Path) -> Path:
    """The folder itself, or its ``model/`` if it is that of a run.

    Raises:
        PretrainedError: there is no model in either.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "model"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    what = "holds no" if folder.is_dir() else "no such folder with a"
    raise PretrainedError(f"{folder}: {what} {WEIGHTS}; a run writes model/ when it has ended")


def held_out_share(model: str | Path) -> float:
    """The share of videos that the run of a model held out where its data named no split (`data.eval_share`); of a
    model without a run the default.

    Args:
        model: the folder of a run or of its model.
    """
    for folder in (Path(model), Path(model).parent):
        with suppress(ConfigError):
            data = load(folder / CONFIG).get("data")
            if isinstance(data, dict) and isinstance(value := data.get("eval_share"), int | float):
                return float(value)
    return SHARE


def read_config(folder: Path) -> VATTConfig | ClassifierConfig:
    """The configuration in a model folder. Raises PretrainedError."""
    path = folder / CONFIG
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise PretrainedError(f"{path}: expected an object of configuration sections")
        values = saved_values(values)
        return from_dict(ClassifierConfig, values) if "num_classes" in values else from_dict(VATTConfig, values)
    except (OSError, ValueError) as error:
        if isinstance(error, PretrainedError):
            raise
        reason = error if isinstance(error, ConfigError) else f"cannot be read: {error}"
        raise PretrainedError(f"{path}: {reason}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors in a model folder, by name. Raises PretrainedError: unreadable, or not finite."""
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"{path}: cannot be read: {error}") from error
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise PretrainedError(f"{path}: {name} holds values that are not finite")
    return weights


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    missing, unknown = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or unknown:
        raise PretrainedError(f"{path}: is of another model: it lacks {missing[:3]} and has {unknown[:3]}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise PretrainedError(f"{path}: {name} has shape {tuple(weights[name].shape)}, needed: {tuple(shape)}")
    model.load_state_dict(weights)
