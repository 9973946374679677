"""Curves of a run as PNG: losses and retrieval over the steps. Matplotlib is imported when a plot is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.core.run_folder import RunFolder
from train.report.records import Metrics, Record
from vatt.evaluation.retrieval import NAMES

LOSSES = {"loss": "all", "vidtxt_loss": "video-text", "vidaud_loss": "video-audio", "audtxt_loss": "audio-text"}
_COLOURS = {"loss": "#222222", "vidtxt_loss": "#1f6feb", "vidaud_loss": "#d9730d", "audtxt_loss": "#8250df"}
RECALLS = {"r1": ("R@1", "#8250df"), "r5": ("R@5", "#1f6feb"), "r10": ("R@10", "#2da44e")}
_SIZE = (7.0, 3.6)  # inches


def write_plots(folder: RunFolder, metrics: Metrics) -> list[Path]:
    """Writes loss.png and, where there was an evaluation, retrieval.png into the folder; returns their paths."""
    written = []
    for name, draw in (("loss.png", loss_plot), ("retrieval.png", retrieval_plot)):
        if (png := draw(metrics)) is not None:
            path = folder.path / name
            path.write_bytes(png)
            written.append(path)
    return written


def loss_plot(metrics: Metrics) -> bytes:
    """The loss and the loss of each pair over the steps, its chance dashed, as PNG. Steps whose loss was not finite are
    gaps."""

    def draw(axes: Any) -> None:
        for name, label in LOSSES.items():
            known = [record for record in metrics.train if record.get(name) is not None]
            if known:
                style: dict[str, Any] = dict(color=_COLOURS[name], label=label, lw=2.2 if name == "loss" else 1.3)
                axes.plot(_steps(known), [record[name] for record in known], **style, **_marker(known))
            if chances := chances_of(metrics.train, name):
                axes.plot(*zip(*chances, strict=True), color=_COLOURS[name], ls="--", lw=0.9)
        axes.set_ylabel("contrastive loss (dashed: chance)" if any_chance(metrics.train) else "contrastive loss")
        axes.legend(frameon=False)

    return _png([draw])


def chances_of(records: list[Record], name: str) -> list[tuple[int, float]]:
    """Steps and chances of a pair, where it had any; none of a run that did not record them."""
    chance = name.replace("_loss", "_chance")
    return [(record["step"], record[chance]) for record in records if chance != name and record.get(chance)]


def any_chance(records: list[Record]) -> bool:
    """Whether any pair has one."""
    return any(chances_of(records, name) for name in LOSSES)


def retrieval_plot(metrics: Metrics) -> bytes | None:
    """Recall over the steps, one panel per direction, chance dashed, as PNG; None without an evaluation."""
    directions = [name for name in NAMES if name != "chance" and any(name in e for e in metrics.evaluations)]
    if not directions:
        return None
    return _png([_recall_panel(metrics.evaluations, name, name == directions[0]) for name in directions])


def _recall_panel(evaluations: list[Record], direction: str, first: bool) -> Callable[[Any], None]:
    known = [record for record in evaluations if direction in record]

    def draw(axes: Any) -> None:
        for key, (label, colour) in RECALLS.items():
            axes.plot(
                _steps(known), [100 * record[direction][key] for record in known], color=colour, label=label, marker="o"
            )
            if "chance" in known[-1]:
                axes.axhline(100 * known[-1]["chance"][key], color=colour, ls="--", lw=0.9)
        axes.set_title(f"{NAMES[direction]} (dashed: chance)", fontsize=10)
        if first:
            axes.set_ylabel("found among the first k, %")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return draw


def _steps(records: list[Record]) -> list[int]:
    return [record["step"] for record in records]


def _marker(records: list[Record]) -> dict[str, str]:
    """A line of one point would not be seen."""
    return {"marker": "o"} if len(records) == 1 else {}


def _png(panels: list[Callable[[Any], None]]) -> bytes:
    from matplotlib.figure import Figure  # without pyplot, so that no window system is looked for

    figure = Figure(figsize=_SIZE, dpi=150, layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
