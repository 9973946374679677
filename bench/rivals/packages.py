"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


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
