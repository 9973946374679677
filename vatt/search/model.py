"""The model of an index: who it is, so that no other one is mixed in, and its vectors of what was read.

Shapes: V windows, T frames, S side, L samples, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.evaluation import evaluating
from vatt.inference.api import VATT
from vatt.inference.spaces import output_name, width_of
from vatt.models.config import VATTConfig
from vatt.precision import type_of
from vatt.search.format import About, SearchError, vector_sets
from vatt.search.windows import digest_of
from vatt.weights.folder import CONFIG, WEIGHTS, model_folder, read_config
from vatt.weights.tensors import CHECKSUM


def config_of(model: Path) -> VATTConfig:
    """Raises SearchError: it is a classifier. PretrainedError: no model."""
    config = read_config(model_folder(model))
    if not isinstance(config, VATTConfig):
        raise SearchError(f"{model}: holds a Classifier, which has no common space to search; name a pretraining model")
    return config


def describe_model(model: Path, vocabulary: Path | None = None) -> dict[str, Any]:
    """Name, path and digests of a model: of its configuration and weights, and of its words (None: it has none); and
    where these are, if not in its folder."""
    folder = model_folder(model)
    words = vocabulary or folder / TOKENIZER
    about = json.dumps([_checksum(folder / WEIGHTS), digest_of(folder / CONFIG)])
    return {
        "name": config_of(model).name,
        "path": str(Path(model).resolve()),
        "weights": hashlib.sha256(about.encode()).hexdigest()[:16],
        "words": digest_of(words)[:16] if words.is_file() else None,
        "vocabulary": None if vocabulary is None else str(Path(vocabulary).resolve()),
    }


def _checksum(path: Path) -> str:
    """That of a file of weights: the one inside, which loading compares with the content, or its own."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, 1 << 24))
    try:
        found = json.loads(header)["__metadata__"][CHECKSUM]
    except (ValueError, KeyError, TypeError):
        found = None
    return found if isinstance(found, str) else digest_of(path)


def check_same(about: About, model: dict[str, Any], where: Path) -> None:
    """Raises SearchError: the index was made with another model; the message names both."""
    made = about.model
    for key, what in (("weights", "weights"), ("words", "words")):
        if made.get(key) != model.get(key):
            raise SearchError(
                f"{where}: was made with the model {made.get('name')} of {made.get('path')} ({what} {made.get(key)}), "
                f"not with {model['name']} of {model['path']} ({what} {model.get(key)}); name that model, or another "
                "index"
            )


def load(model: Path, device: str, precision: str, vocabulary: Path | None = None) -> VATT:
    """The model, on a device. Raises SearchError: there is no such device, or it has no room."""
    found = VATT.from_pretrained(model, vocabulary=vocabulary)
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise SearchError("device: meta: computes nothing; name cpu or cuda")
        if place.type == "cuda" and not torch.cuda.is_available():
            raise SearchError(f"device: {device}: PyTorch sees no CUDA device here")
        found.to(place, type_of(precision, place))
    except RuntimeError as error:
        if isinstance(error, SearchError):
            raise
        raise SearchError(f"device: {device}: {str(error).splitlines()[0]}") from error
    return found


def widths_of(config: VATTConfig) -> dict[str, int]:
    """Vector set -> its dimensions."""
    return {name: width_of(config, modality, space) for name, (modality, space) in vector_sets(config).items()}


def vectors_of(model: VATT, modality: str, x: Tensor) -> dict[str, np.ndarray]:
    """The vectors of windows in each vector set of their modality, L2-normalised float32 (V, D), by its name; a row
    that is not finite is NaN.

    Args:
        x: "video": (V, T, S, S, 3) uint8; "audio": (V, L) float32.
    """
    with evaluating(model):
        out = model(**{modality: x.to(next(model.parameters()).device)})
    found = {}
    for name, (of, space) in vector_sets(model.config).items():
        if of == modality:
            found[name] = F.normalize(out[output_name(model.config, modality, space)].float(), dim=-1).cpu().numpy()
    return found


def gathered(frames: Tensor, at: list[int], spec_frames: int) -> Tensor:
    """Windows (V, T, S, S, 3) that begin at these places of the frames of a group."""
    return torch.stack([frames[start : start + spec_frames] for start in at])


Vectors = Mapping[str, np.ndarray]
