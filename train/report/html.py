"""The building blocks of the report page: escaped text, tables, figures, the frame of the page.

The page loads nothing from elsewhere, and its policy tells the browser so; it reads well on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { --ink: #1c2128; --soft: #57606a; --line: #d8dee4; --back: #f6f8fa; --good: #1a7f37; --accent: #0b5bd3; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 10px; }
p { margin: 4px 0 10px; } .soft, caption, figcaption { color: var(--soft); font-size: .88rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 1.5rem; line-height: 1.2; } .card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; } .facts td { text-align: left; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--soft); white-space: nowrap; width: 1%; padding-right: 20px; }
.wide td { white-space: nowrap; } tr.muted td { color: var(--soft); }
figure { margin: 0; } img { display: block; width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
.query { border-top: 1px solid var(--line); padding: 14px 0; } .query:first-of-type { border-top: 0; }
.query q { font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }
.rank { display: inline-block; border-radius: 99px; padding: 0 10px; margin-left: 6px; font-size: .85rem;
  background: #eaeef2; color: var(--soft); white-space: nowrap; } .rank.top { background: #dafbe1; color: var(--good); }
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(152px, 1fr)); gap: 10px; margin-top: 10px; }
.clip { border: 3px solid transparent; border-radius: 8px; overflow: hidden; background: var(--back); }
.clip.own { border-color: var(--good); } .clip.missed { border: 3px dashed var(--good); }
.clip figcaption { padding: 2px 6px; font-size: .78rem; overflow-wrap: anywhere; line-height: 1.35; }
.clip .none { display: block; padding: 18px 8px; text-align: center; color: var(--soft); font-size: .8rem; }
@media (max-width: 560px) { th, td { padding: 6px 4px; } section { padding: 12px; }
  table { font-size: .9rem; } .wide td:first-child { white-space: normal; } }
pre { overflow: auto; max-height: 480px; font-size: .8rem; } summary { cursor: pointer; color: var(--accent); }
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document around ``parts``, which are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A box with a heading around ``parts``, which are HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def paragraph(text: str, soft: bool = False) -> str:
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def cards(figures: Iterable[tuple[str, str]]) -> str:
    """Headline figures: (value, what it is)."""
    found = (f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in figures)
    return f'<div class="cards">{"".join(found)}</div>'


def table(columns: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    """A table of figures; each row says whether it is muted (beside the matter)."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{' class=muted' if muted else ''}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for muted, cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def picture(source: str, text: str) -> str:
    """An image from a data URI, with its description."""
    return f'<figure><img src="{escape(source)}" alt="{escape(text)}"></figure>'


def fold(title: str, text: str) -> str:
    """Preformatted text that opens on demand."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def clip(source: str | None, note: str, kind: str = "") -> str:
    """One clip of the contact sheet; ``kind`` is "own" (the right one), "missed" (right, but not found) or ""."""
    shown = f'<img src="{escape(source)}" alt="">' if source else '<span class="none">cannot be decoded</span>'
    return f'<figure class="clip {kind}">{shown}<figcaption>{escape(note)}</figcaption></figure>'


def query(text: str, rank: int, of: int, clips: Iterable[str], top: bool) -> str:
    """A sentence, the rank of its own clip, and the clips that it found (HTML of `clip`)."""
    badge = f'<span class="rank{" top" if top else ""}">rank {rank} of {of}</span>'
    return f'<div class="query"><q>{escape(text)}</q>{badge}<div class="found">{"".join(clips)}</div></div>'
