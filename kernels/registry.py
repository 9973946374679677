"""Which backend runs an operation, and why the others do not.

Every operation registers its backends, each with a function that lists the reasons to refuse a call. They are tried in
the order of registration, unless the operation has a dispatch order of its own (`set_dispatch_order`). "auto" selects
the first without a reason; a backend asked for by name runs or raises `BackendError`.

A `Decision` comes before the order: what was measured on this device for one problem. It concerns "auto" alone, and
only calls with the same facts, though any number of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class BackendError(ValueError):
    """No backend can run a call. The message names the operation, the backend and every reason."""


@dataclass(frozen=True)
class Call:
    """What a backend may judge: where the tensors are, their type, and the operation's own facts (sizes, options).

    ``count``: items (sequences, rows, clips), which is no fact: the best backend seldom depends on it. ``named`` is
    True when the caller asked for this backend by name, not for "auto".
    """

    device: torch.device
    dtype: torch.dtype
    facts: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    named: bool = False


@dataclass(frozen=True)
class Problem:
    """An operation as a model calls it: its type, its facts in the order of their names, and a number of items."""

    op: str
    dtype: torch.dtype
    facts: tuple[tuple[str, Any], ...] = ()
    count: int = 1

    @classmethod
    def of(cls, op: str, call: Call) -> Problem:
        """What ``call`` asks of ``op``."""
        return cls(op, call.dtype, tuple(sorted(call.facts.items())), call.count)

    def call(self, device: torch.device) -> Call:
        """As a backend sees it on ``device``."""
        return Call(device, self.dtype, dict(self.facts), self.count)


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
    twin: bool


_OPERATIONS: dict[str, dict[str, _Backend]] = {}
_DISPATCH_ORDERS: dict[str, Callable[[Call], Sequence[str]]] = {}
# By operation, device and type: (problem, backend).
_DECISIONS: dict[tuple[str, torch.device, torch.dtype], list[tuple[Problem, str]]] = {}
_FOUND: dict[tuple[Any, ...], str | None] = {}  # what `_decided` gave for a call
_MOST_FOUND = 4096
_EXCLUDED: set[tuple[torch.device, str, str]] = set()  # device, operation, backend
_listener: Callable[[str, Call], None] | None = None
_as_with_gradient = False
# Brings the decisions of earlier runs, at the first call of "auto" on a device that has none yet.
_loader: Callable[[torch.device], None] | None = None
_LOADED: set[torch.device] = set()


def register(
    op: str, backend: str, run: Callable[..., Any], refuse: Callable[[Call], list[str]], twin: bool = True
) -> None:
    """Adds a backend of ``op``, behind those already there.

    ``run`` must import what it needs when it is called, so that listing backends loads no compiler and no driver.
    ``twin``: whether its dropout mask is that of the reference for the same seed.
    """
    _OPERATIONS.setdefault(op, {})[backend] = _Backend(run, refuse, twin)


def has_twin(op: str, backend: str) -> bool:
    """Whether the reference can drop out the same elements as ``backend``."""
    return _OPERATIONS[op][backend].twin


def set_dispatch_order(op: str, order: Callable[[Call], Sequence[str]]) -> None:
    """``order`` names the backends that "auto" tries first for a call; the others follow as registered."""
    _DISPATCH_ORDERS[op] = order


def _in_order(op: str, call: Call) -> Iterator[str]:
    first = tuple(_DISPATCH_ORDERS[op](call)) if op in _DISPATCH_ORDERS else ()
    yield from first
    yield from (name for name in _OPERATIONS[op] if name not in first)


def decide(device: torch.device, problem: Problem, backend: str) -> None:
    """From now on "auto" takes ``backend`` for calls like ``problem`` on ``device``, unless it refuses them.

    Raises:
        BackendError: there is no such backend.
    """
    if backend not in _OPERATIONS[problem.op]:
        raise BackendError(f"{problem.op}: unknown backend {backend!r}; there are: {', '.join(backends(problem.op))}")
    _FOUND.clear()
    known = _DECISIONS.setdefault((problem.op, device, problem.dtype), [])
    known[:] = [(other, name) for other, name in known if other != problem]
    known.append((problem, backend))


def exclude(device: torch.device, op: str, backend: str) -> None:
    """``backend`` was wrong on ``device``: "auto" does not take it there, unless nothing else can run a call."""
    _EXCLUDED.add((device, op, backend))


def forget_decisions() -> None:
    """Back to the order alone."""
    _DECISIONS.clear()
    _FOUND.clear()
    _EXCLUDED.clear()


def load_decisions_with(loader: Callable[[torch.device], None] | None) -> None:
    """``loader`` brings the decisions for a GPU when "auto" is first asked there. None: nothing does."""
    global _loader
    _loader = loader
    _LOADED.clear()


def loaded(device: torch.device) -> None:
    """The decisions for ``device`` are known: nothing is to be loaded."""
    _LOADED.add(device)


def _decided(op: str, call: Call) -> str | None:
    """The backend for the facts of ``call``, found once where nothing traces."""
    if torch.compiler.is_compiling():
        return _find_decision(op, call)
    key = (op, call.device, call.dtype, call.count, *call.facts.values())  # facts of an operation have one order
    if key not in _FOUND:
        if len(_FOUND) >= _MOST_FOUND:  # ragged batches have new facts in each step
            _FOUND.clear()
        _FOUND[key] = _find_decision(op, call)
    return _FOUND[key]


def _find_decision(op: str, call: Call) -> str | None:
    """Where several counts were measured, that of the nearest. As plain as this because torch.compile traces it,
    perhaps with sizes that are symbols."""
    chosen, least = None, math.inf
    for problem, backend in _DECISIONS.get((op, call.device, call.dtype), ()):
        if all(call.facts.get(name) == value for name, value in problem.facts):
            apart = max(problem.count, call.count) / max(1, min(problem.count, call.count))
            if apart < least:
                chosen, least = backend, apart
    return chosen


@contextmanager
def listening(listener: Callable[[str, Call], None]) -> Iterator[None]:
    """Inside, ``listener`` is told every operation that runs, and its call. On tensors without memory (meta) the
    reference stands in for any backend."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def gradient(*tensors: torch.Tensor | None) -> bool:
    """The fact "gradient": whether a backward pass may follow."""
    return _as_with_gradient or (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors))


@contextmanager
def as_with_gradient() -> Iterator[None]:
    """Inside, under torch.no_grad(), operations take the backends that they take where a backward pass may follow: for
    a forward pass that is repeated with a graph, and must give the same numbers and draw the same dropout."""
    global _as_with_gradient
    before, _as_with_gradient = _as_with_gradient, True
    try:
        yield
    finally:
        _as_with_gradient = before


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
    if _listener is not None:
        _listener(op, call)
        if call.device.type == "meta":  # nothing is computed, and what was asked for may only run on a GPU
            backend = "auto"
    if backend == "auto":
        if _loader is not None and call.device.type == "cuda" and call.device not in _LOADED:
            _load(call.device)
        if _DECISIONS and (decided := _decided(op, call)) is not None and not known[decided].refuse(call):
            return decided
        refused: dict[str, str] = {}
        wrong = None
        for name in _in_order(op, call):
            if reasons := known[name].refuse(call):
                refused[name] = "; ".join(reasons)
            elif not _EXCLUDED or (call.device, op, name) not in _EXCLUDED:
                return name
            else:
                wrong = wrong or name
        if wrong is not None:
            return wrong
        raise BackendError(f"{op}: no backend can run this call: {refused}")
    if backend not in known:
        raise BackendError(f"{op}: unknown backend {backend!r}; there are: auto, {', '.join(known)}")
    if reasons := known[backend].refuse(replace(call, named=True)):
        raise BackendError(f"{op}: backend {backend!r} refuses this call: {'; '.join(reasons)}")
    return backend


def _load(device: torch.device) -> None:
    if torch.compiler.is_compiling():
        return  # a file cannot be read while PyTorch traces
    _LOADED.add(device)
    if _loader is not None and torch.cuda.is_available():
        _loader(device)


def dispatch(op: str, backend: str, call: Call) -> Callable[..., Any]:
    """The function that runs ``op``. Raises BackendError as `select` does."""
    return _OPERATIONS[op][select(op, backend, call)].run


def explain(
    op: str, device: torch.device | str, dtype: torch.dtype = torch.float32, **facts: Any
) -> list[Availability]:
    """All backends of ``op`` for ``dtype`` on ``device``: which one "auto" selects, and why others cannot run."""
    return explain_call(op, Call(torch.device(device), dtype, facts))


def explain_call(op: str, call: Call) -> list[Availability]:
    """`explain` for one call, in the order in which "auto" tries them; decisions are not asked."""
    rows, found = [], False
    for name in _in_order(op, call):
        reasons = tuple(_OPERATIONS[op][name].refuse(call))
        rows.append(Availability(op, name, chosen=not reasons and not found, reasons=reasons))
        found = found or not reasons
    return rows


def refuse_non_float(call: Call) -> list[str]:
    """The reasons of every plain-PyTorch backend: it runs on each device, in each floating-point type."""
    return [] if call.dtype in FLOATS else [f"needs a floating-point type, got {call.dtype}"]
