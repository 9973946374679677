"""Decisions of a machine, kept between runs: one file for each (device, torch, triton, sources of `vatt.kernels`).

In the folder of the environment variable VATT_CACHE, else in ~/.cache/vatt. A file that cannot be read, or that is of
something else, is ignored with a warning that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..registry import Problem
from . import problems
from .choice import Decision, Selection, Verdict

FOLDER = "VATT_CACHE"
_PACKAGES = ("triton", "flash-attn", "flash-attn-4", "xformers")

logger = logging.getLogger(__name__)


def about(device: torch.device) -> dict[str, str]:
    """What decisions depend on, besides the problem."""
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        facts = {"device": name, "capability": ".".join(map(str, capability))}
        facts["cudnn"] = str(torch.backends.cudnn.version())  # a package of its own, whose attention may be chosen
    else:
        facts = {"device": device.type, "machine": platform.machine()}
    return {**facts, "torch": torch.__version__, **_packages(), "kernels": sources()}


@cache
def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@cache
def sources() -> str:
    """The start of a SHA-256 of all files of `vatt.kernels`."""
    here, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_file(device: torch.device) -> Path:
    """Where the decisions of ``device`` are, or will be."""
    try:
        folder = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "vatt")
    except RuntimeError:  # no home, as for an unknown user in a container
        folder = Path(tempfile.gettempdir()) / "vatt-cache"
    key = hashlib.sha256(json.dumps(about(device), sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"kernels-{key}.json"


def load(device: torch.device) -> Selection:
    """The decisions of earlier runs on such a device; none if there is no file that can be used."""
    path = cache_file(device)
    try:
        return read(json.loads(path.read_text(encoding="utf-8")), device)
    except FileNotFoundError:
        return Selection()
    except (OSError, ValueError) as error:
        logger.warning("%s: ignored: %s", path, str(error) or type(error).__name__)
        return Selection()


def save(device: torch.device, selection: Selection) -> None:
    """Adds decisions to those of earlier runs; the file changes as a whole. Where it cannot be written, a warning."""
    path = cache_file(device)
    text = json.dumps(content(device, load(device).merged(selection)), indent=1)
    partly = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partly.write_text(text, encoding="utf-8")
        os.replace(partly, path)
    except OSError as error:
        logger.warning("%s: the choice of kernels is not kept: %s", path, error.strerror or error)
        with suppress(OSError):
            partly.unlink(missing_ok=True)


def content(device: torch.device, selection: Selection) -> dict[str, Any]:
    """Decisions and what they depend on, ready for JSON."""
    return {"about": about(device), "decisions": to_json(selection)}


def read(found: Any, device: torch.device) -> Selection:
    """What `content` gave. Raises ValueError for anything else, and for what is of something else."""
    try:
        if found["about"] != about(device):
            raise ValueError("is of another device or other versions")
        return from_json(found["decisions"])
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"holds no decisions ({type(error).__name__}: {error})") from error


def install_cached(device: torch.device) -> None:
    """Follows the decisions of earlier runs on ``device``, if there are any."""
    load(device).install(device)


def to_json(selection: Selection) -> list[dict[str, Any]]:
    """Lists and dictionaries of texts and numbers."""
    return [
        {
            **problem_to_json(decision.problem),
            "backend": decision.backend,
            "verdicts": {name: asdict(verdict) for name, verdict in decision.verdicts.items()},
        }
        for decision in selection.decisions
    ]


def from_json(rows: Sequence[Mapping[str, Any]]) -> Selection:
    """What `to_json` gave. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    found = []
    for row in rows:
        verdicts = {str(name): Verdict(**verdict) for name, verdict in row["verdicts"].items()}
        found.append(Decision(problem_from_json(row), str(row["backend"]), verdicts))
    return Selection(found)


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """A dictionary of texts, numbers and lists: types as their names, tuples as lists."""
    facts = {name: _plain(value) for name, value in problem.facts}
    return {"op": problem.op, "dtype": str(problem.dtype), "facts": facts, "count": problem.count}


def problem_from_json(row: Mapping[str, Any]) -> Problem:
    """What `problem_to_json` gave. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    facts = tuple(sorted((str(name), _rich(value)) for name, value in row["facts"].items()))
    dtype = _rich(row["dtype"])
    if not isinstance(dtype, torch.dtype) or not problems.knows(row["op"]):
        raise ValueError(f"no problem: {row['op']!r} of {row['dtype']!r}")
    return Problem(row["op"], dtype, facts, int(row["count"]))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _rich(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value.removeprefix("torch."))
    return tuple(_rich(item) for item in value) if isinstance(value, list) else value
