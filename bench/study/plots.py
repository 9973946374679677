"""The picture of docs/results.md: pretrained beside from scratch, and DropToken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.study.results import Row
from bench.study.tables import lines_of, newest, pace, short_runs


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes an .svg of bars with the spread over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = newest(rows)
    with pyplot.rc_context({"svg.hashsalt": "vatt", "svg.fonttype": "path", "font.size": 10}):
        figure, axes = pyplot.subplot_mosaic([["bars", "bars"], ["accuracy", "pace"]], figsize=(10, 7.4))
        _bars(axes["bars"], rows)
        _dropped(axes["accuracy"], rows)
        _paces(axes["pace"], rows)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _figures(rows: Sequence[Row], **wanted: str) -> tuple[float, float]:
    values = [100 * float(r["value"]) for r in rows if all(r[name] == value for name, value in wanted.items())]
    return (mean(values), stdev(values) if len(values) > 1 else 0.0) if values else (0.0, 0.0)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    tuned = [r for r in rows if r["kind"] == "finetune" and r["dropped"] == "0"]
    tasks = lines_of(tuned)
    for place, (init, colour) in enumerate((("pretrained", "#0b5bd3"), ("random", "#9aa4ae"))):
        found = [_figures(tuned, task=task, label=label, steps=steps, init=init) for _, task, label, steps in tasks]
        places = [number + 0.38 * place - 0.19 for number in range(len(tasks))]
        heights, errors = [value for value, _ in found], [error for _, error in found]
        name = "pretrained" if init == "pretrained" else "from scratch"
        axes.bar(places, heights, 0.36, yerr=errors, capsize=3, color=colour, label=name)
    axes.axhline(100 / 6, color="#57606a", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(tasks)), [name.replace(", ", ",\n") for name, *_ in tasks])
    axes.set_ylabel("top-1, % of held-out clips")
    axes.set_title("Fine-tuning for equally many steps")
    axes.legend(frameon=False)


def _dropped(axes: Any, rows: Sequence[Row]) -> None:
    tuned = [r for r in rows if r["kind"] == "finetune" and r["init"] == "pretrained" and r["label"] == "motion"]
    tuned = [r for r in tuned if r["task"] == "video"]
    lines = [("fine-tuning: motion, top-1", tuned, "#0b5bd3")]
    lines.append(("pretraining: R@5 text -> video", short_runs(rows), "#c2410c"))
    for name, found, colour in lines:
        shares = sorted({int(r["dropped"]) for r in found})
        figures = [_figures(found, dropped=str(share)) for share in shares]
        axes.errorbar(
            shares, [v for v, _ in figures], [e for _, e in figures], marker="o", capsize=3, color=colour, label=name
        )
    _shares(axes)
    axes.set_ylabel("%")
    axes.set_title("Accuracy by the patches dropped")
    axes.legend(frameon=False, loc="lower left")


def _paces(axes: Any, rows: Sequence[Row]) -> None:
    shares = sorted({int(r["dropped"]) for r in short_runs(rows)})
    axes.bar(shares, [pace(str(share)) for share in shares], 14, color="#0b5bd3")
    _shares(axes)
    axes.set_ylabel("clips/s")
    axes.set_title("Pace of a pretraining step by the patches dropped")


def _shares(axes: Any) -> None:
    axes.set_xticks((0, 25, 50, 75), ("0%", "25%", "50%", "75%"))
    axes.set_ylim(bottom=0)
