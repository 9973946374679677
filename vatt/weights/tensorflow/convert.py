"""A TensorFlow checkpoint to a model folder of ours: every variable fits one tensor, and every key is accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vatt.files import appearing_folder
from vatt.models.classifier import Classifier
from vatt.models.config import ClassifierConfig, VATTConfig
from vatt.models.vatt import VATT
from vatt.weights.folder import build_model, save_pretrained
from vatt.weights.tensorflow.bundle import Bundle
from vatt.weights.tensorflow.choose import account, choose, describe
from vatt.weights.tensorflow.table import TensorFlowError
from vatt.weights.tensorflow.variables import Variable, variables

ACCOUNT = "conversion.json"
_FLOATS = ("float32", "bfloat16", "float16")  # float32 holds the values of all three
_NAMED = 2  # examples in a message


@dataclass(frozen=True)
class Converted:
    """One variable that was converted: ``part`` = (i, n) when it is the i-th of n blocks of rows of our tensor."""

    key: str
    tensor: str
    shape: tuple[int, ...]
    part: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """As ``conversion.json`` holds it; ``rows``: which block of rows, where it is not the whole tensor."""
        rows = {"rows": f"block {self.part[0] + 1} of {self.part[1]}"} if self.part[1] > 1 else {}
        return {"key": self.key, "shape": list(self.shape), "tensor": self.tensor, **rows}


@dataclass(frozen=True)
class Conversion:
    """What became of every key of a checkpoint. ``parameters`` counts numbers, without running statistics."""

    model: str
    files: list[str]
    folder: Path
    parameters: int
    converted: list[Converted]
    slots: list[str]
    bookkeeping: list[str]
    unused: list[str]

    def to_json(self) -> dict[str, Any]:
        """As ``conversion.json`` holds it."""
        return {
            "model": self.model,
            "files": self.files,
            "parameters": self.parameters,
            "counts": {
                "converted": len(self.converted),
                "optimizer_slots": len(self.slots),
                "bookkeeping": len(self.bookkeeping),
                "unused": len(self.unused),
            },
            "unused": self.unused,
            "bookkeeping": self.bookkeeping,
            "converted": [one.to_json() for one in self.converted],
        }


def convert(prefix: str | Path, model: str, out: str | Path, overrides: Sequence[str] = ()) -> Conversion:
    """Converts a TensorFlow checkpoint to ``out``: model.safetensors, config.json and conversion.json.

    Every variable must fit and be finite; optimizer slots are not read. ``out`` appears once all is written.
    Memory: the model, and one variable.

    Args:
        prefix: see `Bundle`.
        model: a name of `vatt.presets`, or the path of a configuration (.json), an official one or one of ours.
        out: a folder that does not exist or is empty.
        overrides: ``section.field=value``.

    Raises:
        TensorFlowError: the files are damaged or do not fit the model, or ``out`` is taken; the message says which.
        ConfigError: no such model, or a configuration or override that cannot be used.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TensorFlowError(f"{out}: exists and is not an empty folder; name another one")
    bundle = Bundle(prefix)
    accounts = account(bundle.keys())
    config = choose(model, bundle, accounts, overrides)
    with torch.device("meta"):  # no memory is taken before the checkpoint is known to have such arrays
        wanted = variables(_build(config))
    check_fit(config.name, describe(accounts.model), bundle, accounts.model, wanted)
    network = _build(config)
    wanted = variables(network)
    converted = fill(network, bundle, accounts.model, wanted)
    conversion = Conversion(
        model=config.name,
        files=[path.name for path in bundle.files()],
        folder=out,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        converted=converted,
        slots=accounts.slots,
        bookkeeping=accounts.bookkeeping,
        unused=accounts.unused,
    )
    with appearing_folder(out) as folder:
        save_pretrained(network, folder)
        (folder / ACCOUNT).write_text(json.dumps(conversion.to_json(), indent=1), encoding="utf-8")
    return conversion


def _build(config: VATTConfig | ClassifierConfig) -> VATT | Classifier:
    try:
        return build_model(config)
    except ValueError as error:
        raise TensorFlowError(f"{config.name}: cannot be built: {error}") from error


def check_fit(name: str, holds: str, bundle: Bundle, keys: Mapping[str, str], wanted: Mapping[str, Variable]) -> None:
    """Refuses a checkpoint whose variables are not exactly those that the model has.

    Args:
        name: of the model.
        holds: what network the checkpoint is of, in words.
        keys: path -> key of the checkpoint.
        wanted: path -> variable of the model.

    Raises:
        TensorFlowError: the message names shapes of both sides, what is missing and what is left over.
    """
    problems = []
    both = [path for path in wanted if path in keys]
    shapes = [
        f"{path} has shape {bundle.shape(keys[path])}, {name} needs {wanted[path].shape}"
        for path in both
        if bundle.shape(keys[path]) != wanted[path].shape
    ]
    problems += _some("", shapes, "; ")
    problems += _some("the checkpoint lacks ", sorted(wanted.keys() - keys.keys()))
    problems += _some(f"{name} has no ", sorted(keys.keys() - wanted.keys()))
    types = [f"{path} ({bundle.dtype(keys[path])})" for path in both if bundle.dtype(keys[path]) not in _FLOATS]
    problems += _some("of a type that is not converted: ", types)
    if problems:
        raise TensorFlowError(f"{bundle.index}: holds {holds}, and does not fit {name}: {'; '.join(problems)}")


def _some(what: str, names: list[str], between: str = ", ") -> list[str]:
    if not names:
        return []
    more = f" (and {len(names) - _NAMED} more)" if len(names) > _NAMED else ""
    return [f"{what}{between.join(names[:_NAMED])}{more}"]


def fill(module: nn.Module, bundle: Bundle, keys: Mapping[str, str], wanted: Mapping[str, Variable]) -> list[Converted]:
    """Reads every variable of ``wanted``, one after the other, into its tensor.

    Raises:
        TensorFlowError: a damaged file, a value that is not finite, or a tensor of the module that no variable fills;
            the message names them.
    """
    names = {id(value): name for name, value in module.state_dict(keep_vars=True).items()}
    filled: dict[str, int] = {}
    converted = []
    for path, variable in wanted.items():
        key = keys[path]
        variable.store(_finite(bundle, key))
        name = names[id(variable.tensor)]
        filled[name] = filled.get(name, 0) + 1
        if filled[name] == variable.part[1]:
            del names[id(variable.tensor)]
        converted.append(Converted(key, name, bundle.shape(key), variable.part))
    if names:
        raise TensorFlowError(f"{bundle.index}: no variable fills {', '.join(sorted(names.values()))}")
    return converted


def _finite(bundle: Bundle, key: str) -> Tensor:
    array = bundle.read(key)
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise TensorFlowError(f"{bundle.prefix}: {key} holds {bad} values that are not finite")
    return torch.from_numpy(array.astype(np.float32, copy=False))
