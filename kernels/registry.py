"""Which backend runs an operation, and why the others do not.

Every operation registers its backends, each with a function that lists the reasons to refuse a call. They are tried in
the order of registration, unless the operation has a dispatch order of its own (`set_dispatch_order`). "auto" selects
the first without a reason; a backend asked for by name runs or raises `BackendError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class BackendError(ValueError):
    """No backend can run a call. The message names the operation, the backend and every reason."""


@dataclass(frozen=True)
class Call:
    """What a backend may judge: where the tensors are, their type, and the operation's own facts (sizes, options).

    ``named`` is True when the caller asked for this backend by name, not for "auto".
    """

    device: torch.device
    dtype: torch.dtype
    facts: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False


@dataclass(frozen=True)
class Availability:
    """One row of `explain`: ``chosen`` for the backend that "auto" selects; ``reasons`` why one cannot run."""

    op: str
    backend: str
    chosen: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Backend:
    run: Callable[..., Any]
    refuse: Callable[[Call], list[str]]


_OPERATIONS: dict[str, dict[str, _Backend]] = {}
_DISPATCH_ORDERS: dict[str, Callable[[Call], Sequence[str]]] = {}


def register(op: str, backend: str, run: Callable[..., Any], refuse: Callable[[Call], list[str]]) -> None:
    """Adds a backend of ``op``, behind those already there.

    ``run`` must import what it needs when it is called, so that listing backends loads no compiler and no driver.
    """
    _OPERATIONS.setdefault(op, {})[backend] = _Backend(run, refuse)


def set_dispatch_order(op: str, order: Callable[[Call], Sequence[str]]) -> None:
    """``order`` names the backends that "auto" tries first for a call; the others follow as registered."""
    _DISPATCH_ORDERS[op] = order


def _in_order(op: str, call: Call) -> Iterator[str]:
    first = tuple(_DISPATCH_ORDERS[op](call)) if op in _DISPATCH_ORDERS else ()
    yield from first
    yield from (name for name in _OPERATIONS[op] if name not in first)


def operations() -> tuple[str, ...]:
    """Names of all operations."""
    return tuple(_OPERATIONS)


def backends(op: str) -> tuple[str, ...]:
    """Names of the backends of ``op``, in the order of registration."""
    return tuple(_OPERATIONS[op])


def select(op: str, backend: str, call: Call) -> str:
    """The name of the backend that runs ``op``.

    Raises:
        BackendError: ``backend`` does not exist or refuses the call, or "auto" finds none; the message holds why.
    """
    known = _OPERATIONS[op]
    if backend == "auto":
        refused = {}
        for name in _in_order(op, call):
            if not (reasons := known[name].refuse(call)):
                return name
            refused[name] = "; ".join(reasons)
        raise BackendError(f"{op}: no backend can run this call: {refused}")
    if backend not in known:
        raise BackendError(f"{op}: unknown backend {backend!r}; there are: auto, {', '.join(known)}")
    if reasons := known[backend].refuse(replace(call, named=True)):
        raise BackendError(f"{op}: backend {backend!r} refuses this call: {'; '.join(reasons)}")
    return backend


def dispatch(op: str, backend: str, call: Call) -> Callable[..., Any]:
    """The function that runs ``op``. Raises BackendError as `select` does."""
    return _OPERATIONS[op][select(op, backend, call)].run


def explain(
    op: str, device: torch.device | str, dtype: torch.dtype = torch.float32, **facts: Any
) -> list[Availability]:
    """All backends of ``op`` for ``dtype`` on ``device``: which one "auto" selects, and why others cannot run."""
    call = Call(torch.device(device), dtype, facts)
    rows, found = [], False
    for name in _in_order(op, call):
        reasons = tuple(_OPERATIONS[op][name].refuse(call))
        rows.append(Availability(op, name, chosen=not reasons and not found, reasons=reasons))
        found = found or not reasons
    return rows


def refuse_non_float(call: Call) -> list[str]:
    """The reasons of every plain-PyTorch backend: it runs on each device, in each floating-point type."""
    return [] if call.dtype in FLOATS else [f"needs a floating-point type, got {call.dtype}"]
