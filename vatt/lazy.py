"""Packages whose public names are imported when they are first used, so that a part of one does not wait for PyTorch.

The ``__init__.py`` of such a package imports its names under ``if TYPE_CHECKING:``, as type checkers and readers want
them, and gives them, where it runs, with ``__getattr__, __dir__ = on_first_use(__name__)``. Its modules are
attributes, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def on_first_use(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` (PEP 562) of a package, for the names below its ``if TYPE_CHECKING:``."""

    @cache
    def modules() -> dict[str, str]:
        import ast  # these two take longer than all that ``import vatt`` does
        from inspect import getsource

        found = {}
        for node in ast.parse(getsource(sys.modules[package])).body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                for line in node.body:
                    assert isinstance(line, ast.ImportFrom)
                    found.update({alias.name: line.module or "" for alias in line.names})
        return found

    def get(name: str) -> Any:
        # Of __all__, not of modules(): a module of the package does not need its source read.
        if name in vars(sys.modules[package]).get("__all__", ()):
            value = getattr(import_module(modules()[name]), name)
        elif not name.startswith("__") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules()})
