"""What a user would pick instead of this project: complete pretraining models in `bench.baselines.models`; what an
operation is compared with stands in its case (`bench.cases`). Packages that are not required are imported when a call
or a model is made, and not before.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Distribution of a provider's package.
_DISTRIBUTIONS = {
    "timm": "timm",
    "transformers": "transformers",
    "open_clip package": "open_clip_torch",
    "liger": "liger-kernel",
    "flash_attn": "flash-attn",
    "flash_attn_4": "flash-attn-4",
    "xformers": "xformers",
    "decord2": "decord2",
    "torchcodec": "torchcodec",
}


def need(module: str, name: str) -> Any:
    """The object ``name`` of a module.

    Raises:
        ImportError: the package is not installed, has no such object, or lacks something itself; the message names it.
    """
    package = module.partition(".")[0]
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        # Packages built for another version of PyTorch fail in each of these ways.
        raise ImportError(f"{package} cannot be imported: {error}", name=package) from error


def package_version(provider: str) -> str | None:
    """Such as "timm 1.0.31"; None for a provider that is ours or PyTorch's."""
    name = _DISTRIBUTIONS.get(provider.partition(",")[0].removesuffix(" apart"))
    if name is None:
        return None
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} of unknown version"
