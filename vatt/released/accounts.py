"""What each variable of a checkpoint is: one of the model, an optimizer slot, bookkeeping, or something else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vatt.official import from_checkpoint

_SLOT = "/.OPTIMIZER_SLOT/"
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"
# The object graph, the counter of saves, and the counters and settings of Adam and SGD.
_BOOKKEEPING = {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter", "global_step"} | {
    f"optimizer/{name}" for name in ("iter", "beta_1", "beta_2", "decay", "momentum", "learning_rate", "epsilon")
}


@dataclass(frozen=True)
class Accounts:
    """Every key of a checkpoint, in exactly one place. ``model``: path of the variable in the network -> key."""

    model: dict[str, str]
    slots: list[str]
    bookkeeping: list[str]
    unused: list[str]


def account(keys: Iterable[str]) -> Accounts:
    """Sorts the keys of a checkpoint. ``unused`` are those that are none of the three known kinds."""
    keys = sorted(keys)
    model = from_checkpoint({key: key for key in keys})
    slots = [key for key in keys if _SLOT in key]
    bookkeeping = [key for key in keys if key.removesuffix(_LEAF) in _BOOKKEEPING]
    known = {*model.values(), *slots, *bookkeeping}
    return Accounts(model, slots, bookkeeping, [key for key in keys if key not in known])


def describe(paths: Collection[str]) -> str:
    """What network the paths of `Accounts.model` belong to, in words."""

    def some(start: str) -> bool:
        return any(path.startswith(start) for path in paths)

    if some("_base_layer/unified_backbone/"):
        return "a modality-agnostic pretraining model (vatt-ma-*)"
    if some("_base_layer/"):
        return "a pretraining model with a backbone for each modality (vatt-*)"
    if some("_ops/cls/"):
        kind = {"voxel": "a video classifier (vit-*)", "wave": "an audio classifier (wat-*)"}
        return next((name for start, name in kind.items() if some(f"_base/{start}_to_patch/")), "a classifier")
    return "no VATT model"
