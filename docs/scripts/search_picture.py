"""Draws docs/search.svg and writes the tables "What the first command learns" of docs/results.md, from the rows in
bench/results/sample_retrieval.csv: ``python docs/scripts/search_picture.py``.

Bars are means over the seeds, whiskers the lowest and the highest seed, and the line is chance.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "bench" / "results" / "sample_retrieval.csv"
PICTURE = ROOT / "docs" / "search.svg"
PAGE = ROOT / "docs" / "results.md"

RANKS = (1, 5, 10)
COLOURS = {"vatt-tiny": "#0b5bd3", "vatt-ma-tiny": "#8fb8f2"}
PANELS = {"text_to_video": "a sentence looks for its video", "audio_to_video": "a sound looks for its video"}
DIRECTIONS = {"text_to_video": "text -> video", "audio_to_video": "audio -> video"}
ATTRIBUTES = ("colour", "size", "shape", "motion")
HEIGHT, LEFT, TOP, PANEL, BAR = 200, 56, 76, 340, 36  # pixels
STYLE = (
    "text{fill:#1c2128;font-family:system-ui,sans-serif;font-size:13px}"
    ".title{font-size:16px;font-weight:600}.note{fill:#57606a;font-size:12px}"
    ".axis{stroke:#d8dee4}.whisker{stroke:#1c2128}.chance{stroke:#c4420a;stroke-width:2}"
)


def draw(rows: list[dict[str, str]]) -> str:
    """The picture as SVG."""
    rows = [row for row in rows if row["audio_level"] == "rms"]
    clips, steps = rows[0]["clips"], rows[0]["steps"]
    seeds = len({row["seed"] for row in rows})
    device = rows[0]["device"].removesuffix(" (CPU)")
    width = LEFT + PANEL * len(PANELS) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 346" width="{width}" height="346" role="img">',
        f"<title>Share of queries whose video is among the first 1, 5 and 10 of {clips}, beside chance</title>",
        f'<style>{STYLE}</style><rect width="{width}" height="346" rx="8" fill="#fff"/>',
        f'<text class="title" x="16" y="28">Search among {clips} videos that training never saw</text>',
    ]
    parts += [_axis(percent, width) for percent in range(0, 101, 25)]
    parts += [
        _panel(rows, direction, title, LEFT + number * PANEL)
        for number, (direction, title) in enumerate(PANELS.items())
    ]
    parts += _legend(LEFT, TOP + HEIGHT + 40)
    note = f"{steps} steps of 32 clips, {seeds} seeds (bar: mean, whisker: lowest to highest). {device}, no GPU."
    parts += [f'<text class="note" x="{LEFT}" y="{TOP + HEIGHT + 60}">{note}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def recalls(rows: list[dict[str, str]]) -> str:
    """Recall of each model and direction, seed by seed."""
    clips = int(rows[0]["clips"])
    lines = []
    for direction, arrow in DIRECTIONS.items():
        for model in COLOURS:
            chosen = _chosen(rows, direction, model)
            seeds = ", ".join(row["seed"] for row in chosen)
            recall = [" / ".join(f"{float(row[f'r{k}']):.1%}" for row in chosen) for k in RANKS]
            median = " / ".join(f"{float(row['median_rank']):g}" for row in chosen)
            times = " / ".join(f"{row['r5_over_chance']}x" for row in chosen)
            lines.append([f"{arrow}, `{model}`, seeds {seeds}", *recall, median, times])
    chance = [f"{k / clips:.1%}" for k in RANKS]
    lines.append(["chance", *chance, f"{(clips + 1) / 2:g}", "1x"])
    lines.append(["oracle that knows all attributes", "100%", "100%", "100%", "1", f"{clips / 5:.1f}x"])
    return _table(["", "R@1", "R@5", "R@10", "median rank", "R@5 / chance"], lines)


def in_common(rows: list[dict[str, str]]) -> str:
    """What the first five clips share with the query: means over the seeds."""
    lines = []
    for direction, arrow in DIRECTIONS.items():
        for model in COLOURS:
            chosen = _chosen(rows, direction, model)
            shares = [f"{mean(float(row[f'same_{name}']) for row in chosen):.0%}" for name in ATTRIBUTES]
            lines.append([f"{arrow}, `{model}`", *shares])
    lines.append(["chance", *(f"{float(rows[0][f'same_{name}_chance']):.0%}" for name in ATTRIBUTES)])
    return _table(["of the first five, share with the same", *ATTRIBUTES], lines)


def levels(rows: list[dict[str, str]]) -> str:
    """R@5 over chance by the level at which models hear."""
    lines = []
    for level in sorted({row["audio_level"] for row in rows}, reverse=True):
        cells = []
        for direction in DIRECTIONS:
            chosen = _chosen([row for row in rows if row["audio_level"] == level], direction, "vatt-tiny")
            cells.append(" / ".join(f"{row['r5_over_chance']}x" for row in chosen))
        lines.append([f"`{level}`", *cells])
    return _table(["`model.input.audio_level`, seeds 0, 1, 2", *DIRECTIONS.values()], lines)


def filled(page: str, rows: list[dict[str, str]]) -> str:
    """The page with each table put between its marks."""
    main = [row for row in rows if row["audio_level"] == "rms"]
    tables = {"recalls": recalls(main), "in_common": in_common(main), "levels": levels(rows)}
    for name, table in tables.items():
        mark = f"<!-- table: python docs/scripts/search_picture.py, {name} -->"
        before, found, rest = page.partition(f"{mark}\n")
        after = rest.partition("<!-- end -->")[2]
        page = f"{before}{found}{table}\n<!-- end -->{after}" if found else page
    return page


def _chosen(rows: list[dict[str, str]], direction: str, model: str) -> list[dict[str, str]]:
    chosen = [row for row in rows if (row["direction"], row["model"]) == (direction, model)]
    return sorted(chosen, key=lambda row: int(row["seed"]))


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _y(share: float) -> float:
    return round(TOP + HEIGHT * (1 - share), 1)


def _axis(percent: int, width: int) -> str:
    y = _y(percent / 100)
    line = f'<line class="axis" x1="{LEFT}" x2="{width - 10}" y1="{y}" y2="{y}"/>'
    return f'{line}<text class="note" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{percent}%</text>'


def _panel(rows: list[dict[str, str]], direction: str, title: str, left: int) -> str:
    parts = [f'<text x="{left + 8}" y="58">{title}</text>']
    for place, rank in enumerate(RANKS):
        x0 = left + 16 + place * 110
        for number, (model, colour) in enumerate(COLOURS.items()):
            chosen = _chosen(rows, direction, model)
            shares = [float(row[f"r{rank}"]) for row in chosen]
            x, y = x0 + number * (BAR + 2), _y(mean(shares))
            parts.append(f'<rect x="{x}" y="{y}" width="{BAR}" height="{TOP + HEIGHT - y:.1f}" fill="{colour}"/>')
            middle = x + BAR / 2
            low, high = _y(min(shares)), _y(max(shares))
            parts.append(f'<line class="whisker" x1="{middle}" x2="{middle}" y1="{low}" y2="{high}"/>')
            parts.append(
                f'<text class="note" x="{middle}" y="{high - 4:.1f}" text-anchor="middle">{mean(shares):.0%}</text>'
            )
        chance = _y(rank / int(rows[0]["clips"]))
        parts.append(f'<line class="chance" x1="{x0 - 6}" x2="{x0 + 2 * BAR + 8}" y1="{chance}" y2="{chance}"/>')
        among = "comes first" if rank == 1 else f"in first {rank}"
        parts.append(f'<text x="{x0 + BAR + 1}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{among}</text>')
    return "\n".join(parts)


def _legend(x: int, y: int) -> list[str]:
    parts = []
    for model, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{model}</text>')
        x += 130
    parts.append(f'<line class="chance" x1="{x}" x2="{x + 14}" y1="{y - 4}" y2="{y - 4}"/>')
    return [*parts, f'<text x="{x + 20}" y="{y}">chance</text>']


def main() -> None:
    with ROWS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    PICTURE.write_text(draw(rows), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(f"{PICTURE}\n{PAGE}")


if __name__ == "__main__":
    main()
