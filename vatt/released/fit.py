"""Variables of a checkpoint against a model of ours: do they fit, and into it with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vatt.official_names import Variable
from vatt.released.bundle import Bundle
from vatt.released.errors import ReleasedError

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


def check_fit(name: str, holds: str, bundle: Bundle, keys: Mapping[str, str], wanted: Mapping[str, Variable]) -> None:
    """Refuses a checkpoint whose variables are not exactly those that the model has.

    Args:
        name: of the model.
        holds: what network the checkpoint is of, in words.
        keys: path -> key of the checkpoint.
        wanted: path -> variable of the model.

    Raises:
        ReleasedError: the message names shapes of both sides, what is missing and what is left over.
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
        raise ReleasedError(f"{bundle.index}: holds {holds}, and does not fit {name}: {'; '.join(problems)}")


def _some(what: str, names: list[str], between: str = ", ") -> list[str]:
    if not names:
        return []
    more = f" (and {len(names) - _NAMED} more)" if len(names) > _NAMED else ""
    return [f"{what}{between.join(names[:_NAMED])}{more}"]


def fill(module: nn.Module, bundle: Bundle, keys: Mapping[str, str], wanted: Mapping[str, Variable]) -> list[Converted]:
    """Reads every variable of ``wanted``, one after the other, into its tensor.

    Raises:
        ReleasedError: a damaged file, a value that is not finite (the message names file and variable), or a tensor of
            the module that no variable fills.
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
        raise ReleasedError(f"{bundle.index}: no variable fills {', '.join(sorted(names.values()))}")
    return converted


def _finite(bundle: Bundle, key: str) -> Tensor:
    array = bundle.read(key)
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ReleasedError(f"{bundle.prefix}: {key} holds {bad} values that are not finite")
    return torch.from_numpy(array.astype(np.float32, copy=False))
