"""The building blocks of plots: escaped text and shapes with classes, which the page's style colours."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report.html import clean


def picture(width: float, height: float, label: str, kind: str, parts: Iterable[str]) -> str:
    """An inline SVG of this size in its own units; ``label`` says in words what it shows."""
    inner = "".join(parts)
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {size} class="{kind}" role="img" aria-label="{clean(label)}">{inner}</svg>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", size: float | None = 12) -> str:
    """``size`` None leaves the size to the page's style."""
    font = "" if size is None else f' font-size="{size:g}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{font}{_class(kind)}>{clean(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_class(kind)}/>'


def path(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    inner = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{inner}"{_class(kind)}/>'


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"{_class(kind)}/>'


def marker(x: float, y: float, square: bool, kind: str, title: str, size: float = 5) -> str:
    """A circle or a square whose words come up under the pointer."""
    inner = f"<title>{clean(title)}</title>"
    if square:
        corner = f'x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:g}" height="{2 * size:g}"'
        return f"<rect {corner}{_class(kind)}>{inner}</rect>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"{_class(kind)}>{inner}</circle>'


def group(parts: Iterable[str], title: str) -> str:
    """Parts whose words come up under the pointer."""
    return f"<g><title>{clean(title)}</title>{''.join(parts)}</g>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
