"""Versions and devices that a run used. Versions come from package metadata: nothing but torch is imported."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import vatt

# Names of distributions; the last three are optional.
_PACKAGES = ("numpy", "av", "tokenizers", "safetensors", "deepspeed", "triton", "flash-attn", "xformers")


def environment() -> dict[str, str]:
    """Versions of Python and the packages that matter, the operating system, the CPU and the GPUs, as short texts."""
    found = {"vatt-torch": vatt.__version__, "python": platform.python_version(), "torch": torch.__version__}
    found |= {package: package_version(package) or "not installed" for package in _PACKAGES}
    found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    found["CPU"] = f"{cpu_name()}, {cores()} cores for this process, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        return found | {"GPU": f"none (torch built for {_built_for()})"}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found[f"GPU {index}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, sm_{facts.major}{facts.minor}"
    return found | {"CUDA": str(torch.version.cuda or torch.version.hip)}


def default_device() -> str:
    """Of commands whose ``--device`` is not given."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def package_version(name: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _built_for() -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPU"


def cpu_name() -> str:
    """The model of the CPU from Linux's /proc/cpuinfo, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
