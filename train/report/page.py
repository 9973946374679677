"""One page that tells how a run went: figures, curves, and what some sentences found.

``python -m train.report RUN_DIR`` writes it again from the files of the run folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from train.report import html as html
from train.report.plots import loss_plot, retrieval_plot
from train.report.records import Record, RecordError, Run, read_run
from train.report.thumbnails import Thumbnails, data_uri
from vatt.evaluation.retrieval import NAMES

FILE = "report.html"
_QUERIES = 8
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
        f"<h1>{escape(name)}</h1>",
        html.paragraph(
            f"{model}, {run.metrics.train[-1]['step']} of {_of(run.config, 'run.steps')} steps, {_when(run)}"
        ),
        html.cards(_headline(run)),
        _retrieval(run),
        _contact_sheet(run.results),
        _curves(run),
        html.section("Speed", html.facts(_speed(run))),
        html.section("Setting", html.facts(_setting(run.config)), html.fold("config.json", _dump(run.config))),
        html.section("Environment", html.facts(run.environment.items())) if run.environment else "",
        _skipped(run),
    ]
    path = run.folder.path / FILE
    path.write_text(html.page(f"{name}: {model}", parts), encoding="utf-8")
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
    levels = [(False, _LABELS[name], table[name]) for name in _LABELS if name in table]
    levels += [(True, f"oracle {_LABELS[name]}", oracle[name]) for name in _LABELS if name in oracle]
    levels.append((True, "chance", table["chance"]))
    rows = []
    for muted, label, level in levels:
        shares = [_percent(level[key]) for key in ("r1", "r5", "r10")]
        times = f"{level['r5'] / table['chance']['r5']:.1f}x"
        rows.append((muted, [label, *shares, f"{level['median_rank']:.1f}", times]))
    note = (
        f"{table['chance']['n']} held-out clips; R@k: share of queries whose own clip is among the first k found. "
        "MedR: median rank of that clip, 1 is best."
    )
    if oracle:
        note += " The oracle knows all attributes that the sentence or the sound tells of."
    columns = ["", "R@1", "R@5", "R@10", "MedR", "R@5 vs chance"]
    return html.section("Zero-shot retrieval", html.table(columns, rows), html.paragraph(note, soft=True))


def _contact_sheet(results: Record) -> str:
    queries = results.get("queries", [])
    if not queries:
        return ""
    count = min(_QUERIES, len(queries))
    chosen = [queries[i * len(queries) // count] for i in range(count)]
    thumbnail = Thumbnails()
    note = (
        f"{count} of {len(queries)} sentences, evenly spread over the list, whatever they found. Three frames of each "
        "clip, below them its place and similarity. Green frame: the sentence's own clip; dashed: not among the first."
    )
    rows = [_query(query, results["table"]["chance"]["n"], thumbnail) for query in chosen]
    return html.section("What sentences found", html.paragraph(note, soft=True), *rows)


def _query(query: Record, clips: int, thumbnail: Thumbnails) -> str:
    def shown(hit: Record, note: str, kind: str) -> str:
        at = "" if hit["start"] is None else f", from {hit['start']:g} s"
        return html.clip(
            thumbnail(hit["video"], hit["start"], hit["end"]), f"{note} {Path(hit['video']).name}{at}", kind
        )

    found = [
        shown(hit, f"{place} ({hit['score']:.2f})", "own" if hit["own"] else "")
        for place, hit in enumerate(query["top"], start=1)
    ]
    top = any(hit["own"] for hit in query["top"])
    if not top:
        found.append(shown(query, f"{query['rank']}", "missed"))
    return html.query(query["text"], query["rank"], clips, found, top)


def _curves(run: Run) -> str:
    plots = [html.picture(data_uri("image/png", loss_plot(run.metrics)), "loss of each pair over the steps")]
    if (recall := retrieval_plot(run.metrics)) is not None:
        plots.append(html.picture(data_uri("image/png", recall), "recall over the steps"))
    return html.section("Curves", f'<div class="plots">{"".join(plots)}</div>')


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
    yield "peak memory", f"{max(record['memory_gb'] for record in records):.2f} GB"
    yield "steps left out", f"{records[-1]['skipped_steps']} (loss or gradient not finite)"
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


def _skipped(run: Run) -> str:
    files = {(record.get("file"), record.get("field")): record for record in run.skipped}
    if not files:
        return html.section("Skipped files", html.paragraph("None."))
    shown = [(str(record.get("file")), f"{field}: {record.get('reason')}") for (_, field), record in files.items()]
    more = f"{len(files)} in all; every one is in {run.folder.skipped.name}."
    return html.section("Skipped files", html.facts(shown[:10]), html.paragraph(more, soft=True))


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 with a message that names the file if the page cannot be written."""
    parser = argparse.ArgumentParser("python -m train.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a run")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run))
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or options.run}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
