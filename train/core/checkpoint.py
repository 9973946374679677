"""Checkpoints: whole tensors by name and JSON, written atomically, with checksums. Nothing is unpickled.

A checkpoint is a folder ``step-00000123`` with model.safetensors, optimizer.safetensors and state.json. It is written
under another name and renamed when it is complete, so a folder of that name is whole; what it takes the place of is
removed after that. Tensors are made and written one at a time. Each file holds its own checksum, and state.json the
step and those of the other two, so that none of them is taken for one of another checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from vatt.errors import UserError
from vatt.files import appearing_folder, remove_folder, remove_partly
from vatt.weights.tensors import Spec, TensorFile, TensorFileError, Tensors, write_tensors

PREFIX = "step-"
DAMAGED = "damaged-"  # before the name of a checkpoint that was set aside
FORMAT = 2  # 1: without checksums
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_CHECKSUM = "sha256"
_LARGEST_STATE = 1 << 28  # bytes; each rank has 10,000 of them

Held = TypeVar("Held", Tensors, TensorFile)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or used. The message names the file."""


class OtherFormat(CheckpointError):
    """A whole checkpoint, by another version."""


@dataclass
class Checkpoint(Generic[Held]):
    """What ``save`` writes and ``load`` gives back. ``step`` counts the steps that are done."""

    step: int
    model: Held
    optimizer: Held
    random: list[dict[str, str]]  # one entry per rank, see ``random_state``
    counts: dict[str, int]
    pending: dict[str, list[float]] = field(default_factory=dict)  # losses since the last record

    @property
    def unchecked(self) -> bool:
        """Whether it was written before there were checksums, so that damage to it may go unnoticed."""
        return isinstance(self.model, TensorFile) and self.model.checksum is None


def save(folder: Path, checkpoint: Checkpoint[Tensors], keep: int) -> Path:
    """Writes the checkpoint into ``folder`` and removes all earlier ones but the newest, ``keep`` with this one.

    Raises:
        NotFiniteTensor: a tensor holds NaN or infinity. CheckpointError: it cannot be written (the disk may be full).
            Older checkpoints are left as they are in both cases.
    """
    target = folder / f"{PREFIX}{checkpoint.step:08d}"
    step = {"step": str(checkpoint.step)}
    try:
        remove_partly(folder, f"{PREFIX}*")
        with appearing_folder(target, replace=True, sync=True) as partly:
            sums = {
                MODEL: write_tensors(partly / MODEL, checkpoint.model, step),
                OPTIMIZER: write_tensors(partly / OPTIMIZER, checkpoint.optimizer, step),
            }
            (partly / STATE).write_text(_state_text(checkpoint, sums))
    except OSError as error:
        size = (checkpoint.model.bytes + checkpoint.optimizer.bytes) / 1e9
        before = [path.name for path in steps(folder)[-1:]]
        stays = f"; {before[0]} stays" if before else ""
        raise CheckpointError(f"{target}: cannot write the checkpoint of {size:.2g} GB: {error}{stays}") from error
    for old in [path for path in steps(folder) if _number(path) < checkpoint.step][: -(keep - 1) or None]:
        remove_folder(old)
    return target


def _state_text(checkpoint: Checkpoint[Tensors], sums: Mapping[str, str]) -> str:
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "random": checkpoint.random,
        "counts": checkpoint.counts,
        "pending": checkpoint.pending,
        "files": sums,
        "torch": torch.__version__,
    }
    return json.dumps({_CHECKSUM: _sum_of(state), **state})


def _sum_of(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    found = (path for path in folder.glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d+", path.name) and path.is_dir())
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def load_latest(
    folder: Path, everywhere: Callable[[Any], list[Any]] = lambda item: [item]
) -> tuple[Checkpoint[TensorFile] | None, list[str]]:
    """The newest checkpoint that can be read, or None; and a complaint about each newer one that cannot.

    Args:
        everywhere: gives the items of all ranks, in rank order. All take the same checkpoint: one that each can read.

    Raises:
        OtherFormat: a newer one is whole, but by another version.
    """
    complaints: list[str] = []
    for path in reversed(everywhere(steps(folder))[0]):
        found = complaint = None
        try:
            found = load(folder / path.name)
        except OtherFormat:
            raise
        except CheckpointError as error:
            complaint = str(error)
        damage = [text for text in everywhere(complaint) if text is not None]
        if not damage:
            return found, complaints
        complaints.append(damage[0])
    return None, complaints


def set_aside(folder: Path, step: int) -> list[str]:
    """Renames the checkpoints after ``step``, which could not be read: the run takes another way from there, on which
    they must not count as its newest. Returns their new names. What a killed process left half-done is removed."""
    remove_partly(folder, f"{PREFIX}*")
    names = []
    for path in steps(folder):
        if _number(path) > step:
            aside = path.with_name(DAMAGED + path.name)
            with suppress(OSError):
                if aside.exists():
                    remove_folder(aside)
                path.rename(aside)
                names.append(aside.name)
    return names


def load(path: Path) -> Checkpoint[TensorFile]:
    """Reads one checkpoint folder. Its tensors are checked here, and read when they are asked for.

    Raises:
        CheckpointError: a file is missing, damaged, of another checkpoint or another format, or holds a number that is
            not finite; the message names it.
    """
    file = path / STATE
    try:
        state = _read_state(file)
        _check_state(state)
        if path.name.startswith(PREFIX) and state["step"] != _number(path):
            raise ValueError(f"is that of step {state['step']}")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{file}: {reason or type(error).__name__}") from error
    model, optimizer = (_tensors(path / name, state) for name in (MODEL, OPTIMIZER))
    _check_count(optimizer, state["step"])
    return Checkpoint(state["step"], model, optimizer, *(state[name] for name in ("random", "counts", "pending")))


def _read_state(file: Path) -> dict[str, Any]:
    """What state.json holds, once its checksum is checked. Raises OSError; ValueError: it is damaged."""
    if (size := file.stat().st_size) > _LARGEST_STATE:
        raise ValueError(f"is damaged: {size:,} bytes")
    try:
        state = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("is damaged: JSON that is nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, or a number of too many digits
        raise ValueError(f"is damaged: {error}") from error
    if not isinstance(state, dict):
        raise ValueError("is damaged: expected an object")
    form, found = state.get("format"), state.pop(_CHECKSUM, None)
    if type(form) is not int or found != (None if form == 1 else _sum_of(state)):
        raise ValueError("is damaged: its content differs from its checksum")
    if form not in (1, FORMAT):
        raise OtherFormat(f"{file}: is of format {form!r:.80}, this version reads 1 and {FORMAT}")
    return state


def _check_state(state: dict[str, Any]) -> None:
    """Raises ValueError: an entry is missing, or is not what a run writes."""
    step, random, counts, pending = (state.get(name) for name in ("step", "random", "counts", "pending"))
    if not _is_count(step):
        raise ValueError(f"is damaged: step is {step!r:.80}")
    if not isinstance(counts, dict) or "skipped_steps" not in counts or not all(map(_is_count, counts.values())):
        raise ValueError("is damaged: counts are not numbers of steps")
    if not isinstance(pending, dict) or not all(
        isinstance(values, list) and all(type(value) is float for value in values) for values in pending.values()
    ):
        raise ValueError("is damaged: pending are not lists of losses")
    if not isinstance(random, list) or not random:
        raise ValueError("is damaged: random is no list of states")
    for rank, entry in enumerate(random):
        try:
            torch.Generator().set_state(_bytes_of(entry["cpu"]))
            if "cuda" in entry:
                _bytes_of(entry["cuda"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"is damaged: random[{rank}] is no state of a generator") from error


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensors(file: Path, state: dict[str, Any]) -> TensorFile:
    """The tensors of one file of a checkpoint. Raises CheckpointError."""
    try:
        stored = TensorFile(file)
    except TensorFileError as error:
        raise CheckpointError(str(error)) from error
    if state["format"] == 1:
        return stored
    if (step := stored.metadata.get("step")) != str(state["step"]):
        raise CheckpointError(f"{file}: is that of step {step}")
    files = state.get("files")
    if not isinstance(files, dict) or stored.checksum is None or stored.checksum != files.get(file.name):
        raise CheckpointError(f"{file}: is not the file that was written beside {STATE}")
    return stored


def _check_count(optimizer: TensorFile, step: int) -> None:
    """Raises CheckpointError: the number of updates makes no sense."""
    spec = optimizer.specs.get("step")
    if spec is None or spec.dtype.is_floating_point or math.prod(spec.shape) != 1:
        raise CheckpointError(f"{optimizer.path}: holds no number of updates")
    if not 0 <= int(optimizer["step"]) <= step:
        raise CheckpointError(f"{optimizer.path}: {int(optimizer['step'])} updates in {step} steps")


def check_fits(
    checkpoint: Checkpoint[TensorFile], model: Mapping[str, Spec], optimizer: Mapping[str, Spec], where: Path
) -> None:
    """Compares the tensors of a checkpoint with what a model and its optimizer need.

    Raises:
        CheckpointError: another set of names, another shape or type; both are named.
    """
    missing, unknown = _difference(model, checkpoint.model.specs)
    if missing or unknown:
        raise CheckpointError(f"{where}: is of another model: it lacks {missing[:3]} and has {unknown[:3]}")
    _check_specs(checkpoint.model.specs, model, "model", where)
    there = checkpoint.optimizer.specs
    if there.keys() == {"step"}:  # before the first update
        return
    missing, unknown = _difference(optimizer, there)
    if missing or unknown:
        raise CheckpointError(
            f"{where}: is of another optimizer, or others were trained (optim.kind, freeze_backbone): "
            f"it lacks {missing[:2]} and has {unknown[:2]}"
        )
    _check_specs(there, optimizer, "optimizer", where)


def _difference(wanted: Mapping[str, Spec], there: Mapping[str, Spec]) -> tuple[list[str], list[str]]:
    return sorted(wanted.keys() - there.keys()), sorted(there.keys() - wanted.keys())


def _check_specs(there: Mapping[str, Spec], wanted: Mapping[str, Spec], what: str, where: Path) -> None:
    for name, (dtype, shape) in wanted.items():
        found = there[name]
        if found.shape != shape:
            raise CheckpointError(f"{where}: {name} has shape {tuple(found.shape)}, the {what} needs {tuple(shape)}")
        if found.dtype != dtype:
            raise CheckpointError(f"{where}: {name} is {found.dtype}, the {what} needs {dtype}")


def random_state() -> dict[str, str]:
    """The state of torch's generators on this rank, as text for JSON."""
    state = {"cpu": bytes(torch.get_rng_state().tolist()).hex()}
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what ``random_state`` gave."""
    torch.set_rng_state(_bytes_of(state["cpu"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes_of(state["cuda"]))


def _bytes_of(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
