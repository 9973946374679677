"""Triton's interpreter, twice as quick: more than half of its time went on what changes no result.

At each launch it puts functions of its own into `triton.language`, and takes them out at the end; and at each call of a
function of a kernel it looks through all of `triton.language` to put there what is there. And it computes each sum and
product of 32-bit integers again in 64 bits, for an assertion that only its debug mode makes.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import ModuleType
from typing import Any

LANGUAGE = {"triton.language", "triton.language.core"}


def quicken() -> None:
    """Of the calls in a launch, only the first that sees another part of `triton.language` changes it."""
    if importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):  # another version
        return
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)
    patch_language, changed = interpreter._patch_lang, set[str]()

    def once(function: Any) -> Any:
        seen = LANGUAGE & {x.__name__ for x in function.__globals__.values() if isinstance(x, ModuleType)}
        if changed and seen <= changed:
            return interpreter._LangPatchScope()
        of_launch = not changed
        changed.update(seen)
        scope = patch_language(function)
        if of_launch:  # which restores the language at its end
            restore = scope.restore

            def end() -> None:
                changed.clear()
                restore()

            scope.restore = end
        return scope

    interpreter._patch_lang = once
