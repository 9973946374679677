"""A model as a folder: model.safetensors, config.json, and (pretraining models) tokenizer.json.

``train/pretrain.py`` and ``train/finetune.py`` leave such a folder, ``vatt convert`` makes one of a TensorFlow
checkpoint, and ``VATT.from_pretrained`` and ``Classifier.from_pretrained`` read it. Nothing is unpickled.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from vatt.config import ConfigError, from_dict, load, show, to_dict
from vatt.data.splits import SHARE
from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.data.tokenizer import Tokenizer
from vatt.errors import UserError
from vatt.files import appearing, appearing_folder, remove_partly, write_text
from vatt.json_files import JSONError, parse_json
from vatt.memory import free_memory
from vatt.models.classifier import Classifier
from vatt.models.config import ClassifierConfig, VATTConfig, saved_values
from vatt.models.vatt import VATT
from vatt.weights.tensors import NotFiniteTensor, TensorFile, TensorFileError, Tensors, write_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MOST_HEADER = 16 * 2**20  # bytes; 100,000 tensors have as many
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a value
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

    The weights of a model that is there already stay until the new ones are complete.

    Args:
        state: weights in place of the model's own, by the names of its ``state_dict``.

    Raises:
        ValueError: a classifier whose configuration is not known, since `Classifier.from_config` did not make it.
        PretrainedError: a weight is not finite; nothing is changed.
    """
    if model.config is None:
        raise ValueError("model: has no configuration; make it with Classifier.from_config")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {CONFIG: json.dumps(to_dict(model.config), indent=1)}
    if tokenizer is not None:
        texts[TOKENIZER] = tokenizer.to_text()
    _write(folder, Tensors.of(state or model.state_dict()), texts)


def export_model(
    folder: Path, config: VATTConfig | ClassifierConfig, weights: Tensors, tokenizer: Path | None = None
) -> None:
    """Writes a model of a run, whole or not at all, in place of the folder that is there.

    Args:
        weights: by the names of its ``state_dict``.
        tokenizer: its file.

    Raises:
        PretrainedError: a weight is not finite, or it cannot be written (the disk may be full); what is there stays.
    """
    texts = {CONFIG: json.dumps(to_dict(config), indent=1)}
    try:
        if tokenizer is not None:
            texts[TOKENIZER] = tokenizer.read_text(encoding="utf-8")
        remove_partly(folder.parent, glob.escape(folder.name))
        with appearing_folder(folder, replace=True, sync=True) as partly:
            _write(partly, weights, texts)
    except OSError as error:
        raise PretrainedError(f"{folder}: cannot write the model of {weights.bytes / 1e9:.2g} GB: {error}") from error


def _write(folder: Path, weights: Tensors, texts: Mapping[str, str]) -> None:
    """The files of a model, the weights last: a folder without weights holds no model."""
    path = folder / WEIGHTS
    try:
        with appearing(path) as partly:
            write_tensors(partly, weights)
            if any(not (folder / name).is_file() or (folder / name).read_text() != texts[name] for name in texts):
                path.unlink(missing_ok=True)  # or, for a moment, they would be taken for weights of the new model
            for name, text in texts.items():
                write_text(folder / name, text)
    except NotFiniteTensor as error:
        raise PretrainedError(f"{path}: not written: {error}") from error


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
        with torch.device("meta"):  # no memory is taken before the file is known to have such tensors
            shapes = {name: tuple(value.shape) for name, value in build(config).state_dict().items()}
        check_stored(folder / WEIGHTS, shapes)
        model = build(config)
    except (ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, PretrainedError):
            raise
        raise PretrainedError(f"{folder / CONFIG}: {error}") from error
    _fill(model, folder / WEIGHTS)
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
    if saved := sorted(path.name for path in (folder / "checkpoints").glob("step-*")):
        step = saved[-1].rpartition("-")[2].lstrip("0") or "0"
        raise PretrainedError(
            f"{folder}: the run has not ended, so it holds no {WEIGHTS} yet: go on with its command and --out {folder} "
            f"--resume; with --steps {step} beside, it ends at its newest checkpoint, and writes model/"
        )
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
        values = saved_values(load(path))
    except ConfigError as error:
        raise PretrainedError(str(error)) from error
    try:
        return from_dict(ClassifierConfig, values) if "num_classes" in values else from_dict(VATTConfig, values)
    except ConfigError as error:
        raise PretrainedError(f"{path}: {error}") from error


def check_stored(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Looks at the head of a file of weights alone.

    Raises:
        PretrainedError: it is no such file, does not hold floating-point tensors of these names and shapes and nothing
            else, or they do not fit into the memory that is free.
    """
    stored = read_header(path)
    missing, unknown = sorted(shapes.keys() - stored.keys()), sorted(stored.keys() - shapes.keys())
    if missing or unknown:
        some = f"it lacks {show(missing[:3])} and has {show(unknown[:3])}"
        raise PretrainedError(f"{path}: is of another model: {some}")
    for name, shape in shapes.items():
        kind, found = stored[name]
        if found != shape:
            raise PretrainedError(f"{path}: {name} has shape {found}, needed: {shape}")
        if kind not in _FLOATS:
            raise PretrainedError(f"{path}: {name} has the type {show(kind)}, needed: one of {', '.join(_FLOATS)}")
    needed, free = 4 * sum(map(math.prod, shapes.values())), free_memory()
    if free is not None and needed > free:
        raise PretrainedError(f"{path}: needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and the shape of each tensor in a safetensors file, by name.

    Raises:
        PretrainedError: no such file, or one whose head does not describe what follows, byte by byte.
    """
    try:
        with path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            if whole < 10 or size > min(MOST_HEADER, whole - 8):
                raise PretrainedError(f"{path}: cannot be read: is no safetensors file, is cut off, or has a huge head")
            header = parse_json(file.read(size), f"{path}: the head", dict)
    except JSONError as error:
        raise PretrainedError(str(error)) from error
    except OSError as error:
        raise PretrainedError(f"{path}: cannot be read: {error.strerror}") from error
    header.pop("__metadata__", None)
    found, places = {}, []
    for name, entry in header.items():
        about = entry if isinstance(entry, dict) else {}
        kind, shape, place = (about.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2 or not isinstance(kind, str):
            raise PretrainedError(f"{path}: {show(name)}: {show(entry)} in the head is no type, shape and place")
        if kind in _FLOATS and place[1] - place[0] != _FLOATS[kind] * math.prod(shape):
            raise PretrainedError(f"{path}: {show(name)}: {show(place)} is no place of {kind} of shape {shape}")
        found[name] = (kind, tuple(shape))
        places.append(place)
    places.sort()
    ends = [0, *(end for _, end in places)]
    if [start for start, _ in places] != ends[:-1] or ends[-1] != whole - 8 - size:
        raise PretrainedError(f"{path}: cannot be read: its tensors do not fill the file; it is cut off or damaged")
    return found


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= 16 and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _fill(model: nn.Module, path: Path) -> None:
    """Puts the tensors of a file into the model, one at a time."""
    own = model.state_dict()
    try:
        weights = TensorFile(path)
        with torch.no_grad():
            for name, value in own.items():
                if (found := weights.specs[name].shape) != value.shape:
                    raise TensorFileError(f"{path}: {name} has shape {tuple(found)}, needed: {tuple(value.shape)}")
                value.copy_(weights[name])
                if not torch.isfinite(value).all():  # of wider numbers than those of the model
                    raise TensorFileError(f"{path}: {name} holds values that are too large for {value.dtype}")
    except KeyError as error:  # exchanged since its head was looked at
        raise PretrainedError(f"{path}: lacks {error}") from error
    except TensorFileError as error:
        raise PretrainedError(str(error)) from error
