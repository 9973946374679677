"""Pages that are one file: escaped text, tables, figures, drawings, and the frame with its style and policy.

A page loads nothing from elsewhere. Its content security policy tells the browser so: it allows the one style and the
one script that are written here, by their hashes, pictures that are part of the page, and nothing else. It follows the
reader's light or dark setting and fits a phone. ``train.report`` and ``bench.report`` are built of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

# What neither HTML nor XML may hold; a results file or a file's name may.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --line: #d8dee4; --back: #f6f8fa; --box: #fff;
  --accent: #0b5bd3; --pale: #8db8f2; --grey: #b3bcc6; --bad: #b3261e; --good: #1a7f37; --good-back: #dafbe1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --line: #30363d; --back: #0d1117;
  --box: #161b22; --accent: #4c9bff; --pale: #275a9c; --grey: #57606a; --bad: #ff8a80; --good: #56d364;
  --good-back: #12361d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 10px; overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 22px 0 8px; }
p { margin: 4px 0 10px; overflow-wrap: anywhere; } a, summary { color: var(--accent); } summary { cursor: pointer; }
.soft, caption, figcaption small { color: var(--soft); font-size: .88rem; } .warn { font-weight: 600; }
section { background: var(--box); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; } pre { overflow: auto; max-height: 480px; font-size: .8rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.card { background: var(--box); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; min-width: 0; }
.card b { display: block; font-size: 1.4rem; line-height: 1.2; overflow-wrap: anywhere; }
.card span { color: var(--soft); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
.plots.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
figure { margin: 0; min-width: 0; } .plots figure { border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figcaption { font-size: .92rem; font-weight: 600; overflow-wrap: anywhere; line-height: 1.35; }
figcaption small { display: block; font-weight: 400; }
figure > small { display: block; margin: 8px 0 0; color: var(--soft); }
img { display: block; width: 100%; height: auto; }
ul.failed { margin: 8px 0 0; padding-left: 18px; font-size: .85rem; overflow-wrap: anywhere; }
.failed b { color: var(--bad); }
.wide { overflow-x: auto; } .wide:focus-visible, th button:focus-visible { outline: 2px solid var(--accent); }
.tall { max-height: 80vh; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  white-space: nowrap; }
td.n, th.n { text-align: right; } tr:last-child td { border-bottom: 0; }
tr.ours td { background: var(--back); } tr.muted td { color: var(--soft); }
td.long { white-space: normal; min-width: 420px; overflow-wrap: anywhere; font-size: .85rem; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
.tall th { position: sticky; top: 0; background: var(--box); }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--soft); white-space: nowrap; width: 1%; padding-right: 20px; }
th button { all: unset; cursor: pointer; } th button::after { content: " \\2195"; opacity: .4; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
.filter { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: baseline; margin: 0 0 10px; }
.filter[hidden] { display: none; } .filter input { font: inherit; padding: 4px 8px; width: min(100%, 320px);
  color: inherit; background: var(--back); border: 1px solid var(--line); border-radius: 6px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font-family: system-ui, sans-serif; }
svg .note { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .peak { stroke: var(--ink); fill: none; stroke-width: 2; } svg .ours { fill: var(--accent); stroke: var(--accent); }
svg .again { fill: var(--pale); stroke: var(--pale); } svg .baseline { fill: var(--grey); stroke: var(--grey); }
svg text.ours { stroke: none; font-weight: 600; } svg .whisker { stroke: var(--ink); stroke-width: 1.3; }
svg .first { fill: var(--ink); stroke: var(--ink); } svg .second { fill: #8250df; stroke: #8250df; }
svg .third { fill: var(--accent); stroke: var(--accent); } svg .fourth { fill: #d9730d; stroke: #d9730d; }
svg .line { fill: none; stroke-width: 2; } svg .dashed { stroke-width: 1; stroke-dasharray: 5 4; }
svg .hollow { fill: var(--box); stroke-width: 2; }
svg.bars, svg.lines { max-width: 520px; } svg.roofline { max-width: 900px; } svg.roofline text { font-size: 12px; }
.query { border-top: 1px solid var(--line); padding: 14px 0; } .query:first-of-type { border-top: 0; }
.query q { font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }
.rank { display: inline-block; border-radius: 99px; padding: 0 10px; margin-left: 6px; font-size: .85rem;
  background: var(--line); color: var(--soft); white-space: nowrap; }
.rank.top { background: var(--good-back); color: var(--good); }
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(152px, 1fr)); gap: 10px; margin-top: 10px; }
.clip { border: 3px solid transparent; border-radius: 8px; overflow: hidden; background: var(--back); }
.clip.own { border-color: var(--good); } .clip.missed { border: 3px dashed var(--good); }
.clip figcaption { padding: 2px 6px; font-size: .78rem; font-weight: 400; color: var(--soft); }
.clip .none { display: block; padding: 18px 8px; text-align: center; color: var(--soft); font-size: .8rem; }
@media (max-width: 600px) { section { padding: 12px; } main { padding: 12px 10px 40px; } th, td { padding: 5px 4px; }
  .wide:not(.tall) td:first-child { white-space: normal; }
  svg.roofline text { font-size: 21px; } }
"""

# What the table named "rows" does beyond a plain table: it sorts and it filters. Headers become buttons only here, so
# that without a script nothing looks as if it could be pressed. Numbers come before words, and empty cells last
# whichever way one sorts.
SCRIPT = """
"use strict";
const table = document.getElementById("rows");
const body = table.tBodies[0];
const all = Array.from(body.rows);
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent;
  const number = text.trim() === "" ? NaN : Number(text);
  return { text, number, empty: text.trim() === "", numeric: !Number.isNaN(number) };
};
const order = (a, b) => {
  if (a.numeric && b.numeric) return a.number - b.number;
  if (a.numeric !== b.numeric) return a.numeric ? -1 : 1;
  return a.text.localeCompare(b.text, "en", { numeric: true });
};
const sort = (header, column) => {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const keyed = all.map((row) => [value(row, column), row]);
  keyed.sort(([a], [b]) => (a.empty || b.empty ? a.empty - b.empty : sign * order(a, b)));
  body.append(...keyed.map(([, row]) => row));
};
Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sort(header, column));
  header.replaceChildren(button);
});
const box = document.getElementById("filter");
const count = document.getElementById("count");
const texts = new Map(all.map((row) => [row, row.textContent.toLowerCase()]));
const filter = () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of all) {
    row.hidden = !words.every((word) => texts.get(row).includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${all.length} rows`;
};
box.addEventListener("input", filter);
box.closest(".filter").hidden = false;
filter();
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it is sorted by where that differs, and its CSS class ("n": a number)."""

    text: str
    value: str = ""
    kind: str = ""


def clean(text: str) -> str:
    """Any text, as HTML and SVG show it."""
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text))


def policy(script: bool) -> str:
    """The content security policy of a page with or without the script."""
    allowed = [f"style-src '{_digest(STYLE)}'", *([f"script-src '{_digest(SCRIPT)}'"] if script else ())]
    return "; ".join(("default-src 'none'", "img-src data:", *allowed, "base-uri 'none'", "form-action 'none'"))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(title: str, parts: Iterable[str], script: bool = False) -> str:
    """A whole document around ``parts``, which are HTML. ``script``: the table named "rows" sorts and filters."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{clean(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{_lines(parts)}\n</main>\n"
        + (f"<script>{SCRIPT}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def section(title: str, *parts: str, name: str = "") -> str:
    """A box with a heading around ``parts``, which are HTML; ``name`` is where links lead."""
    return f"<section{_named('id', name)}>\n<h2>{clean(title)}</h2>\n{_lines(parts)}\n</section>"


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(part for part in parts if part)


def _named(attribute: str, value: str) -> str:
    return f' {attribute}="{clean(value)}"' if value else ""


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{clean(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """``kind``: "soft" (beside the matter), "warn" (not to be missed) or nothing."""
    return f"<p{_named('class', kind)}>{clean(text)}</p>"


def fold(title: str, text: str) -> str:
    """Preformatted text that opens on demand."""
    return f"<details><summary>{clean(title)}</summary><pre>{clean(text)}</pre></details>"


def cards(figures: Iterable[tuple[str, str]]) -> str:
    """Headline figures: (value, what it is)."""
    found = (f'<div class="card"><b>{clean(value)}</b><span>{clean(what)}</span></div>' for value, what in figures)
    return f'<div class="cards">{"".join(found)}</div>'


def links(targets: Iterable[tuple[str, str]]) -> str:
    """(name of a section, words)."""
    return "<nav>" + "".join(f'<a href="#{clean(name)}">{clean(words)}</a>' for name, words in targets) + "</nav>"


def table(
    columns: Sequence[Cell | str],
    rows: Iterable[tuple[str, Sequence[Cell | str]]],
    name: str = "",
    label: str = "",
) -> str:
    """A table that scrolls inside its box; each row comes with its CSS class. ``label`` is read aloud.

    The one named "rows" gets a field that filters it, hidden until the page's script shows it.
    """
    head = "".join(_cell("th", column) for column in columns)
    body = "\n".join(
        f"<tr{_named('class', kind)}>{''.join(_cell('td', c) for c in cells)}</tr>" for kind, cells in rows
    )
    box = f'class="wide{" tall" if name else ""}" role="region" tabindex="0" aria-label="{clean(label)}"'
    found = f"<table{_named('id', name)}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f"{_FILTER if name == 'rows' else ''}<div {box}>{found}</div>"


_FILTER = (
    '<p class="filter" hidden><label for="filter">Rows with these words</label>'
    '<input id="filter" type="search" autocomplete="off"><span id="count" class="soft" aria-live="polite"></span></p>'
)


def _cell(tag: str, cell: Cell | str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    value = _named("data-v", cell.value) if cell.value != cell.text else ""
    scope = ' scope="col"' if tag == "th" else ""
    return f"<{tag}{scope}{_named('class', cell.kind)}{value}>{clean(cell.text)}</{tag}>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "".join(f"<tr><td>{clean(name)}</td><td>{clean(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def plots(figures: Iterable[str], large: bool = False) -> str:
    """Figures side by side, as many as fit."""
    inner = "\n".join(figures)
    return f'<div class="plots{" large" if large else ""}">\n{inner}\n</div>' if inner else ""


def figure(title: str, under: str, *parts: str) -> str:
    """``parts`` (HTML) under a title and a smaller line."""
    small = f"<small>{clean(under)}</small>" if under else ""
    caption = f"<figcaption>{clean(title)}{small}</figcaption>" if title or under else ""
    return f"<figure>{caption}{''.join(parts)}</figure>"


def image(source: str, text: str) -> str:
    """A picture from a data URI, with its description."""
    return f'<img src="{clean(source)}" alt="{clean(text)}"/>'


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address that needs no other file; ``kind`` such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# Drawings: shapes with classes, which the page's style colours.


def svg(width: float, height: float, label: str, kind: str, parts: Iterable[str]) -> str:
    """An inline SVG of this size in its own units; ``label`` says in words what it shows."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {size} class="{kind}" role="img" aria-label="{clean(label)}">{"".join(parts)}</svg>'


def svg_text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", size: float | None = 12) -> str:
    """``size`` None leaves the size to the page's style."""
    font = "" if size is None else f' font-size="{size:g}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{font}{_named("class", kind)}>{clean(words)}</text>'


def svg_line(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    inner = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{inner}"{_named("class", kind)}/>'


def svg_rectangle(x: float, y: float, width: float, height: float, kind: str, title: str = "", round: float = 2) -> str:
    """``title`` comes up under the pointer."""
    shape = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round:g}"'
    return f"{shape}{_named('class', kind)}>{_title(title)}</rect>"


def svg_circle(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{_named("class", kind)}>{_title(title)}</circle>'


def svg_group(parts: Iterable[str], title: str) -> str:
    """Parts whose words come up under the pointer."""
    return f"<g>{_title(title)}{''.join(parts)}</g>"


def _title(text: str) -> str:
    return f"<title>{clean(text)}</title>" if text else ""
