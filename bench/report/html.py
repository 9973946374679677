"""The building blocks of the page: escaped text, tables, boxes, the frame with its policy.

The page loads nothing from elsewhere: its policy allows the one style and the one script that are written here, by
their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from bench.report.script import SCRIPT
from bench.report.style import STYLE

# What neither HTML nor XML may hold; a results file may.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it is sorted by where that differs, and its CSS class."""

    text: str
    value: str = ""
    kind: str = ""


def clean(text: str) -> str:
    """Any text, as HTML and SVG show it."""
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text))


def policy() -> str:
    """The content security policy."""
    parts = f"style-src '{_digest(STYLE)}'", f"script-src '{_digest(SCRIPT)}'"
    return "; ".join(("default-src 'none'", *parts, "base-uri 'none'", "form-action 'none'"))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document around ``parts``, which are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{clean(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str, name: str = "") -> str:
    """A box with a heading around ``parts``, which are HTML; ``name`` is where links lead."""
    anchor = f' id="{clean(name)}"' if name else ""
    return f"<section{anchor}>\n<h2>{clean(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def heading(text: str) -> str:
    return f"<h3>{clean(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """``kind``: "soft" (beside the matter), "warn" (not to be missed) or nothing."""
    return f"<p{f' class={kind}' if kind else ''}>{clean(text)}</p>"


def cards(figures: Iterable[tuple[str, str]]) -> str:
    """Headline figures: (value, what it is)."""
    found = (f'<div class="card"><b>{clean(value)}</b><span>{clean(what)}</span></div>' for value, what in figures)
    return f'<div class="cards">{"".join(found)}</div>'


def plots(figures: Iterable[str]) -> str:
    """Figures side by side, as many as fit."""
    inner = "\n".join(figures)
    return f'<div class="plots">\n{inner}\n</div>' if inner else ""


def figure(title: str, under: str, *parts: str) -> str:
    """``parts`` (HTML) under a title and a smaller line."""
    small = f"<small>{clean(under)}</small>" if under else ""
    return f"<figure><figcaption>{clean(title)}{small}</figcaption>" + "".join(parts) + "</figure>"


def links(targets: Iterable[tuple[str, str]]) -> str:
    """(name of a section, words)."""
    return "<nav>" + "".join(f'<a href="#{clean(name)}">{clean(words)}</a>' for name, words in targets) + "</nav>"


def table(columns: Sequence[Cell], rows: Iterable[tuple[str, Sequence[Cell]]], name: str = "", label: str = "") -> str:
    """A table that scrolls inside its box; each row comes with its CSS class. ``label`` is read aloud."""
    head = "".join(f'<th scope="col"{_class(cell.kind)}>{clean(cell.text)}</th>' for cell in columns)
    body = "\n".join(f"<tr{_class(kind)}>{''.join(map(_cell, cells))}</tr>" for kind, cells in rows)
    anchor = f' id="{clean(name)}"' if name else ""
    box = f'class="wide{" tall" if name else ""}" role="region" tabindex="0" aria-label="{clean(label)}"'
    return f"<div {box}><table{anchor}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _cell(cell: Cell) -> str:
    value = f' data-v="{clean(cell.value)}"' if cell.value and cell.value != cell.text else ""
    return f"<td{_class(cell.kind)}{value}>{clean(cell.text)}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def filter_box() -> str:
    """The field that filters the table of all rows; hidden until the script shows it."""
    return (
        '<p class="filter" hidden><label for="filter">Rows with these words</label>'
        '<input id="filter" type="search" autocomplete="off">'
        '<span id="count" class="soft" aria-live="polite"></span></p>'
    )
