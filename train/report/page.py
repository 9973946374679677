"""One page that tells how a run went: figures, curves, and what some sentences found.

``vatt report RUN_DIR`` writes it again from the files of the run folder.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from train.core.advice import summary
from train.core.bound import in_words, shares_of
from train.core.console import SHORT, cosines
from train.report.plots import LOSSES, RECALLS, any_chance, chances_of
from train.report.records import Record, RecordError, Run, read_run
from vatt import html
from vatt.charts import Line, Point, line_chart
from vatt.clip import InputConfig
from vatt.data import Clip
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_window
from vatt.data.windows import window_start
from vatt.errors import printable
from vatt.evaluation.retrieval import EQUAL, NAMES
from vatt.files import write_text

FILE = "report.html"
_QUERIES = 8
_PLACES = (0.1, 0.5, 0.9)  # of a clip, where the frames of its picture are from
_SIDE, _GAP = 96, 3  # pixels of a frame, and between two
_THUMBNAIL = InputConfig(frames=1, fps=10.0, size=_SIDE, sample_rate=8000)
_LABELS = {name: label.replace("->", "\N{RIGHTWARDS ARROW}") for name, label in NAMES.items() if name != "chance"}


def write_report(run_dir: Path) -> Path:
    """Writes report.html into the folder of a run, from the files there; returns its path.

    Raises:
        RecordError: the folder or a file of it is missing or cannot be read; names the file.
    """
    run = read_run(run_dir)
    name = run.folder.path.resolve().name
    model = _of(run.config, "model.name")
    parts = [
        f"<h1>{html.clean(name)}</h1>",
        html.paragraph(
            f"{model}, {run.metrics.train[-1]['step']} of {_of(run.config, 'run.steps')} steps, {_when(run)}"
        ),
        html.cards(_headline(run)),
        _retrieval(run),
        _contact_sheet(run.results),
        _curves(run),
        _signs(run),
        html.section("Speed", html.facts(_speed(run))),
        _recipe(run.recipe),
        html.section("Setting", html.facts(_setting(run.config)), html.fold("config.json", _dump(run.config))),
        html.section("Environment", html.facts(run.environment.items())) if run.environment else "",
        _skipped(run),
    ]
    path = run.folder.path / FILE
    write_text(path, html.page(f"{name}: {model}", parts))
    return path


def _of(config: Record, dotted: str) -> Any:
    """A value of the nested configuration, "n/a" where a run of another version did not have it."""
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            return "n/a"
        value = value[key]
    return value


def _dump(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def _when(run: Run) -> str:
    return f"ended {datetime.fromtimestamp(run.metrics.train[-1]['time'], UTC):%Y-%m-%d %H:%M} UTC"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _headline(run: Run) -> Iterator[tuple[str, str]]:
    table, last = run.results.get("table", {}), run.metrics.train[-1]
    for name in _LABELS:
        if name in table:
            times = table[name]["r5"] / table["chance"]["r5"]
            yield _percent(table[name]["r5"]), f"R@5 {_LABELS[name]}, {times:.1f}x chance"
    yield f"{last['loss']:.3f}", f"loss at step {last['step']}"
    yield f"{_median(run, 'samples_per_s'):.1f}", "samples a second"


def _retrieval(run: Run) -> str:
    table, oracle = run.results.get("table", {}), run.results.get("oracle", {})
    if not table:
        return html.section("Zero-shot retrieval", html.paragraph("Not evaluated: too few clips were held out."))
    levels = []
    for name in _LABELS:
        for key, label in ((name, _LABELS[name]), (f"{name}_equal", f"or an equal {EQUAL[name]}")):
            levels += [("", label, table[key])] if key in table else []
    levels += [("muted", f"oracle {_LABELS[name]}", oracle[name]) for name in _LABELS if name in oracle]
    levels.append(("muted", "chance", table["chance"]))
    rows = []
    for kind, label, level in levels:
        shares = [_percent(level[key]) for key in ("r1", "r5", "r10")]
        times = f"{level['r5'] / level.get('chance', table['chance'])['r5']:.1f}x"
        figures = (*shares, f"{level['median_rank']:.1f}", times)
        rows.append((kind, [html.Cell(label), *(html.Cell(figure, kind="n") for figure in figures)]))
    note = (
        f"{table['chance']['n']} held-out clips; R@k: share of queries whose own clip is among the first k found. "
        "MedR: median rank of that clip, 1 is best."
    )
    shared = [(EQUAL[name], table[f"{name}_equal"]) for name in EQUAL if f"{name}_equal" in table]
    for what, level in shared:
        note += f" {level['shared']} of {level['n']} {what}s are shared by several clips; each of these may be found."
    if oracle:
        note += " The oracle knows all attributes that the sentence or the sound tells of."
    names = ("", "R@1", "R@5", "R@10", "MedR", "R@5 vs chance")
    shown = html.table([html.Cell(name, kind="n" if name else "") for name in names], rows, label="Recall and ranks")
    return html.section("Zero-shot retrieval", shown, html.paragraph(note, "soft"))


def _contact_sheet(results: Record) -> str:
    found = results.get("queries", [])
    if not found:
        return ""
    queries = list({query["text"]: query for query in reversed(found)}.values())[::-1]  # the first of equal sentences
    count = min(_QUERIES, len(queries))
    chosen = [queries[i * len(queries) // count] for i in range(count)]
    note = (
        f"{count} of {len(queries)} different sentences, evenly spread over the list, whatever they found. Three "
        "frames of each clip, below them its place and similarity. Green frame: the sentence's own clip; dashed: not "
        "among the first."
    )
    strip = cache(_strip)  # most clips are found by several sentences
    rows = [_query(query, results["table"]["chance"]["n"], strip) for query in chosen]
    return html.section("What sentences found", html.paragraph(note, "soft"), *rows)


def _query(query: Record, clips: int, strip: Callable[[str, float | None, float | None], str | None]) -> str:
    """A sentence, the rank of its own clip, and the clips that it found."""

    def shown(hit: Record, note: str, kind: str) -> str:
        """``kind``: "own" (the right clip), "missed" (right, but not found) or ""."""
        source = strip(hit["video"], hit["start"], hit["end"])
        picture = html.image(source, "") if source else '<span class="none">cannot be decoded</span>'
        at = "" if hit["start"] is None else f", from {hit['start']:g} s"
        words = html.clean(f"{note} {Path(hit['video']).name}{at}")
        return f'<figure class="clip {kind}">{picture}<figcaption>{words}</figcaption></figure>'

    found = [
        shown(hit, f"{place} ({hit['score']:.2f})", "own" if hit["own"] else "")
        for place, hit in enumerate(query["top"], start=1)
    ]
    top = any(hit["own"] for hit in query["top"])
    if not top:
        found.append(shown(query, f"{query['rank']}", "missed"))
    badge = f'<span class="rank{" top" if top else ""}">rank {query["rank"]} of {clips}</span>'
    words = f"<q>{html.clean(query['text'])}</q>{badge}"
    return f'<div class="query">{words}<div class="found">{"".join(found)}</div></div>'


def _strip(video: str, start: float | None, end: float | None) -> str | None:
    """Three centre crops of a clip side by side, as a data URI (JPEG); None for one that cannot be decoded any more."""
    from PIL import Image  # a dependency of Matplotlib

    clip = Clip(Path(video), start, end)

    def at(place: float, duration: float) -> float:
        return window_start(clip, duration, _THUMBNAIL, place)

    try:
        found = [decode_window(clip.media, partial(at, place), CentreView(), _THUMBNAIL) for place in _PLACES]
    except MediaError:
        return None
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    row = [part for window in found for part in (window.frames_TSS3[0], gap)][:-1]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(row, axis=1)).save(out, "JPEG", quality=80)
    return html.data_uri("image/jpeg", out.getvalue())


def _curves(run: Run) -> str:
    """Losses and recalls over the steps, chance dashed. A loss that was not finite is a gap."""
    losses, by_chance = {}, {}
    for kind, (name, label) in zip(("first", "third", "fourth", "second"), LOSSES.items(), strict=True):
        losses[kind] = label, [(r["step"], r[name]) for r in run.metrics.train if r.get(name) is not None]
        by_chance[kind] = chances_of(run.metrics.train, name)
    dashed = " (dashed: chance)" if any_chance(run.metrics.train) else ""
    shown = [_chart(f"contrastive loss{dashed}", losses, by_chance)]
    for name, label in _LABELS.items():
        evaluated = [record for record in run.metrics.evaluations if name in record]
        if evaluated:
            lines, chances = {}, dict[str, list[tuple[int, float]]]()
            for kind, (key, (recall, _)) in zip(("second", "third", "fourth"), RECALLS.items(), strict=True):
                lines[kind] = recall, [(record["step"], 100 * record[name][key]) for record in evaluated]
                level = 100 * evaluated[-1]["chance"][key]
                chances[kind] = [(0, level), (evaluated[-1]["step"], level)]
            shown.append(_chart(f"{label}, % found among the first k (dashed: chance)", lines, chances, marked=True))
    return html.section("Curves", html.plots(shown, large=True))


def _chart(
    title: str,
    lines: dict[str, tuple[str, list[tuple[int, float]]]],
    chances: dict[str, list[tuple[int, float]]],
    marked: bool = False,
) -> str:
    """``lines``: by CSS class their name and points, with marks if ``marked``; ``chances``: by CSS class points of a
    dashed line."""
    last = max((step for _, points in lines.values() for step, _ in points), default=0)
    known = {kind: (name, [Point(at, kind) for at in points]) for kind, (name, points) in lines.items() if points}
    found = [Line(points, kind, name, 3 if marked else None) for kind, (name, points) in known.items()]
    found += [Line([Point(at, kind) for at in level], f"{kind} dashed") for kind, level in chances.items() if level]
    ticks = {step: f"{step:,}" for step in sorted({last // 2, last} - {0})}
    return html.figure(title, "", line_chart(found, ticks, "step", f"{title} over the steps", size=(460.0, 230.0)))


def _signs(run: Run) -> str:
    """What the losses say beside their chance, and how alike the embeddings are; nothing of an older run."""
    last = run.metrics.train[-1]
    rows = [
        (f"{short}, {side}", f"{cosine:.3f}")
        for name, short in SHORT.items()
        for side, cosine in cosines(last, name.removesuffix("_loss"))
    ]
    sentences = summary(run.metrics.train, run.config)
    learned = "".join(html.paragraph(f"{line[:1].upper()}{line[1:]}.") for line in sentences)
    if not learned and not rows:
        return ""
    note = "The mean cosine between the embeddings of different clips, at the last record; 1: all are alike."
    return html.section("What was learned", learned, html.facts(rows), html.paragraph(note, "soft") if rows else "")


def _median(run: Run, name: str) -> float:
    values = sorted(record[name] for record in run.metrics.train)
    return values[len(values) // 2]


def _speed(run: Run) -> Iterator[tuple[str, str]]:
    records = run.metrics.train
    mfu = records[-1]["mfu"]
    yield "samples a second", f"{_median(run, 'samples_per_s'):.1f} (median of {len(records)} records)"
    yield "TFLOP/s", f"{_median(run, 'tflops'):.3g}"
    yield "MFU", "n/a" if mfu is None else _percent(_median(run, "mfu"))
    yield "waiting for data", f"{_percent(_median(run, 'data_wait'))} of the time"
    if shares := shares_of(records):
        yield "bound by", in_words(shares, any(name.startswith("GPU 0") for name in run.environment))
    yield "peak memory", f"{max(record['memory_gb'] for record in records):.2f} GB"
    yield "steps skipped", f"{records[-1]['skipped_steps']} (loss or gradient not finite)"
    yield "first to last record", str(timedelta(seconds=round(records[-1]["time"] - records[0]["time"])))


def _setting(config: Record) -> Iterator[tuple[str, str]]:
    def value(name: str) -> str:
        return str(_of(config, name))

    sources = _of(config, "data.sources")
    yield "data", ", ".join(sources) if isinstance(sources, list) else str(sources)
    clip = f"{value('model.input.frames')} frames at {value('model.input.fps')} a second"
    side, rate = value("model.input.size"), value("model.input.sample_rate")
    yield "clip", f"{clip}, {side} x {side} pixels, sound at {rate} Hz, {value('model.input.candidates')} sentences"
    yield "model", f"{value('model.name')}, backbone {value('model.backbone')}, head {value('model.head.kind')}"
    yield "steps", f"{value('run.steps')} of {value('run.batch_size')} clips, seed {value('run.seed')}"
    rates = f"{value('optim.lr')} to {value('optim.final_lr')} ({value('optim.schedule')})"
    yield "learning rate", f"{rates}, {value('optim.warmup_steps')} steps of warm-up at most"
    yield "engine", f"ZeRO {value('engine.zero')}, precision {value('engine.precision')}"
    yield "evaluation", f"{value('evaluation.windows')} windows a clip, embeddings averaged"


def _recipe(recipe: Record) -> str:
    """What the data were like, and what was chosen by that."""
    if not recipe:
        return ""
    names = ("setting", "chosen", "why")
    rows = [
        ("", [html.Cell(str(row.get(name))) for name in ("setting", "value", "reason")]) for row in recipe["choices"]
    ]
    shown = html.table([html.Cell(name) for name in names], rows, label="Chosen by data and machine") if rows else ""
    return html.section("Data and recipe", html.paragraph(str(recipe["data"])), shown)


def _skipped(run: Run) -> str:
    files = {(record.get("file"), record.get("field")): record for record in run.skipped}
    if not files:
        return html.section("Skipped files", html.paragraph("None."))
    shown = [(str(record.get("file")), f"{field}: {record.get('reason')}") for (_, field), record in files.items()]
    more = f"{len(files)} in all; every one is in {run.folder.skipped.name}."
    return html.section("Skipped files", html.facts(shown[:10]), html.paragraph(more, "soft"))


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 with a message that names the file if the page cannot be written."""
    parser = argparse.ArgumentParser("vatt report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a run")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run))
    except RecordError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {printable(error.filename or options.run)}: {printable(error.strerror or error)}", file=sys.stderr
        )
        return 1
    return 0
