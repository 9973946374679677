"""What a provider is: ours, ours once more, plain PyTorch, compiled, or a peer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.peers import AUTO, COMPILE, OURS
from bench.store import Row
from bench.suite.session import AGAIN

# Ours, as a user gets it; the first that was measured is what the others are compared with.
_FIRST = (f"ours {OURS}", OURS, f"ours {AUTO}", AUTO)
_EAGER = ("ours torch", "torch")


def is_ours(name: str) -> bool:
    """Code of this project, whichever backend: a backend of ours by name, such a one with a peer's attention, or
    anything that begins with "ours"."""
    head = name.removesuffix(AGAIN).partition("+")[0]
    return head in (OURS, "triton_gemm", AUTO) or name.startswith("ours")


def is_again(name: str) -> bool:
    """Ours timed a second time: how far it lies from the first is noise."""
    return name.endswith(AGAIN)


def is_eager(name: str) -> bool:
    """Our own code in plain, eager PyTorch."""
    return name in _EAGER


def is_compiled(name: str) -> bool:
    """PyTorch code through torch.compile."""
    return name.removeprefix("ours ").startswith(COMPILE)


def is_peer(name: str) -> bool:
    """Code of others."""
    return not (is_ours(name) or is_eager(name) or is_compiled(name))


def primary(names: Iterable[str]) -> str | None:
    """The one of ours that the others are compared with, or None."""
    known = list(names)
    others = (name for name in known if is_ours(name) and not (is_again(name) or is_eager(name) or is_compiled(name)))
    return next((name for name in _FIRST if name in known), None) or next(others, None)


def fastest(rows: Iterable[Row]) -> Row | None:
    """The row with the least time, or None."""
    return min((row for row in rows if row["ms"]), key=lambda row: float(row["ms"]), default=None)


def noise(rows: Mapping[str, Row]) -> float | None:
    """How far the second timing of ours lies from the first, relative. ``rows``: of one case and mode by provider."""
    ours = primary(rows)
    again = rows.get(f"{ours}{AGAIN}")
    if ours is None or again is None or not (again["ms"] and rows[ours]["ms"]):
        return None
    return abs(float(again["ms"]) / float(rows[ours]["ms"]) - 1)
