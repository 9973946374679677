"""Checkpoints: whole tensors by name and JSON, written atomically. Nothing is unpickled.

A checkpoint is a folder ``step-00000123`` with model.safetensors, optimizer.safetensors and state.json. It is written
under another name and renamed when it is complete, so a folder of that name is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vatt.errors import UserError
from vatt.files import appearing_folder

PREFIX = "step-"
FORMAT = 1


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or used. The message names the file."""


@dataclass
class Checkpoint:
    """What ``save`` writes and ``load`` gives back. ``step`` counts the steps that are done."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: list[dict[str, str]]  # one entry per rank, see ``random_state``
    counts: dict[str, int]
    pending: dict[str, list[float]] = field(default_factory=dict)  # losses since the last record


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes the checkpoint into ``folder`` and removes all but the ``keep`` newest.

    Raises:
        CheckpointError: it cannot be written (the disk may be full); older checkpoints are left as they are.
    """
    target = folder / f"{PREFIX}{checkpoint.step:08d}"
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "random": checkpoint.random,
        "counts": checkpoint.counts,
        "pending": checkpoint.pending,
        "torch": torch.__version__,
    }
    try:
        for left in folder.glob(f".{PREFIX}*.partly"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with appearing_folder(target, replace=True, sync=True) as partly:
            save_file(checkpoint.model, partly / "model.safetensors")
            save_file(checkpoint.optimizer, partly / "optimizer.safetensors")
            (partly / "state.json").write_text(json.dumps(state))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot write the checkpoint: {error}") from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def steps(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that can be read, or None; and a complaint about each newer one that cannot."""
    complaints: list[str] = []
    for path in reversed(steps(folder)):
        try:
            return load(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, cut short or of another format; the message names it.
    """
    tensors = {}
    for name in ("model", "optimizer"):
        file = path / f"{name}.safetensors"
        try:
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
    file = path / "state.json"
    try:
        state = json.loads(file.read_text())
        if state["format"] != FORMAT:
            raise CheckpointError(f"{file}: format {state['format']}, this version reads {FORMAT}")
        parts = (state[name] for name in ("random", "counts", "pending"))
        return Checkpoint(state["step"], tensors["model"], tensors["optimizer"], *parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error!r}") from error


def check_fits(checkpoint: Checkpoint, shapes: dict[str, torch.Size], where: Path) -> None:
    """Compares the tensors of a checkpoint with the shapes of the model.

    Raises:
        CheckpointError: another set of names, or another shape; both shapes are named.
    """
    missing, unknown = shapes.keys() - checkpoint.model.keys(), checkpoint.model.keys() - shapes.keys()
    if missing or unknown:
        raise CheckpointError(
            f"{where}: is of another model: it lacks {sorted(missing)[:3]} and has {sorted(unknown)[:3]}"
        )
    for name, shape in shapes.items():
        found = checkpoint.model[name].shape
        if found != shape:
            raise CheckpointError(f"{where}: {name} has shape {tuple(found)}, the model needs {tuple(shape)}")


def random_state() -> dict[str, str]:
    """The state of torch's generators on this rank, as text for JSON."""
    state = {"cpu": bytes(torch.get_rng_state().tolist()).hex()}
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what ``random_state`` gave."""
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["cpu"])), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8))
