"""What must be the same on all nodes of a job, compared before it computes: software, settings, files.

Ranks with another release, another command line or other clips would hang, or train on something else in silence.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from train.core.ranks import RankContext, gather, wait_for_all
from vatt.config import ConfigError
from vatt.data import Clip
from vatt.environment import package_version
from vatt.files import TREE
from vatt.kernels.selection.cache import sources as sources_of_kernels

_PACKAGES = ("vatt-torch", "torch", "triton", "deepspeed", "numpy", "av", "tokenizers", "safetensors")
_PATIENCE = 10.0  # seconds until a new file on a network disk is seen everywhere
_FEW = 3


def same_everywhere(context: RankContext, facts: Mapping[str, str], advice: str) -> None:
    """Compares facts with those of rank 0. All ranks must call.

    Raises:
        ConfigError: on all ranks, some differ; the message names the node, the facts and ``advice``.
    """
    first = gather(dict(facts) if context.first else None)[0]
    own = {name: facts.get(name, "none") for name in {**first, **facts} if facts.get(name) != first.get(name)}
    for rank, other in enumerate(gather(own)):
        if other:
            shown = [f"{name} {other[name]} (rank 0: {first.get(name, 'none')})" for name in list(other)[:_FEW]]
            more = f" and {len(other) - _FEW} more" if len(other) > _FEW else ""
            raise ConfigError(f"{context.places[rank]}, rank {rank}: has {', '.join(shown)}{more}; {advice}")


def check_versions(context: RankContext) -> None:
    """Refuses nodes with other software. Says where the GPUs differ, for rank 0 chooses the kernels of all.

    Raises:
        ConfigError: as `same_everywhere`.
    """
    if context.ranks == 1:
        return
    found = {name: package_version(name) or "not installed" for name in _PACKAGES}
    found |= {"torch": torch.__version__, "sources of this project": sources()}
    if context.device.type == "cuda":
        found |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
    same_everywhere(context, found, "all nodes need the same software")
    if len(names := dict.fromkeys(gather(context.device_name))) > 1:
        context.say(f"warning: the ranks have different devices, and kernels are chosen on rank 0: {', '.join(names)}")


@cache
def sources() -> str:
    """The start of a SHA-256 of the code that a job runs."""
    digest = hashlib.sha256(sources_of_kernels().encode())
    for path in sorted([*(TREE / "vatt").rglob("*.py"), *(TREE / "train").rglob("*.py")]):
        digest.update(f"{path.relative_to(TREE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_settings(context: RankContext, config: Mapping[str, Any], **flags: object) -> None:
    """Refuses ranks that were started with another configuration. Raises ConfigError: as `same_everywhere`."""
    if context.ranks > 1:
        facts = flat(config) | {f"--{name}": str(value) for name, value in flags.items()}
        advice = "start the same command on every node, and name what follows from a machine, such as data.workers"
        same_everywhere(context, facts, advice)


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """The settings of all sections by their dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": repr(value)}
    return found


def check_folder(context: RankContext, folder: Path) -> None:
    """Refuses a folder that rank 0 made and another node does not see: what rank 0 writes there, all ranks read.

    Raises:
        ConfigError: on all ranks; names the nodes.
    """
    if len(context.nodes) == 1:
        return
    mark = folder / f".seen-{gather(secrets.token_hex(8))[0]}"
    if context.first:
        mark.touch()
    wait_for_all()
    seen, until = mark.exists(), time.monotonic() + _PATIENCE
    while not seen and time.monotonic() < until:
        time.sleep(0.5)
        seen = folder.is_dir() and mark.name in {path.name for path in folder.iterdir()}
    blind = dict.fromkeys(place for place, sees in zip(context.places, gather(seen), strict=True) if not sees)
    if context.first:
        mark.unlink()
    if blind:
        raise ConfigError(
            f"--out {folder}: {context.places[0]} made it, but {', '.join(blind)} cannot see it; choose a folder on a "
            "disk that all nodes share"
        )


def check_clips(context: RankContext, what: str, clips: Iterable[Clip]) -> None:
    """Refuses nodes that find other clips, which would number them in another way.

    Raises:
        ConfigError: as `same_everywhere`.
    """
    if len(context.nodes) == 1:
        return
    digest, count = hashlib.sha256(), 0
    for count, clip in enumerate(clips, start=1):  # noqa: B007
        digest.update(f"{clip.video.name} {clip.start} {clip.end} {len(clip.captions)}\n".encode(errors="replace"))
    facts = {what: f"{count} clips ({digest.hexdigest()[:8]})"}
    same_everywhere(context, facts, "every node must see the same files")
