"""The tables and the picture of docs/results.md, from the rows of the study: means over seeds with their spread."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vatt.files import TREE
from vatt.results import Row

# Rows of the benchmarks: the pace and the memory of a training step, measured by themselves.
STEPS = TREE / "bench" / "results" / "results.csv"
NAMES = {
    ("video", "motion"): "motion, from video",
    ("video", "shape"): "shape, from video",
    ("video", "colour"): "colour, from video",
    ("video", "size"): "size, from video",
    ("audio", "motion"): "motion, from sound",
    ("audio", "shape"): "shape, from sound",
    ("audio", "colour"): "colour, from sound",
    ("audio", "size"): "size, from sound",
    ("image", "shape"): "shape, from one frame",
    ("image", "motion"): "motion, from one frame",
}


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each experiment on the newest sample that has rows."""
    sample = max((int(row["sample"] or 0) for row in rows), default=0)
    return list({row["command"]: row for row in rows if int(row["sample"] or 0) == sample}.values())


def percent(rows: Sequence[Row], column: str = "value") -> tuple[float, float | None] | None:
    """Mean and, of several seeds, standard deviation, in per cent."""
    values = [100 * float(row[column]) for row in rows if row[column]]
    return (mean(values), stdev(values) if len(values) > 1 else None) if values else None


def spread(rows: Sequence[Row], column: str = "value") -> str:
    """Mean and standard deviation in words; "" without a value."""
    if (found := percent(rows, column)) is None:
        return ""
    return f"{found[0]:.1f}{'' if found[1] is None else f' ± {found[1]:.1f}'}%"


def _where(rows: Sequence[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def lines_of(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """What was classified, as (name, task, label, steps): a line for each length of fine-tuning, the longest first."""
    lines = []
    for (task, label), name in NAMES.items():
        found = _where(rows, task=task, label=label)
        lengths = {row["steps"] for row in found if row["kind"] == "finetune"}
        ordered = sorted(lengths, key=lambda steps: -int(steps or 0)) or [""] * bool(found)
        for number, steps in enumerate(ordered):
            lines.append((f"{name}, {steps} steps" if number else name, task, label, steps))
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def against_scratch(rows: Sequence[Row]) -> str:
    """Fine-tuning and probes from pretrained and from random weights."""
    rows = [row for row in newest(rows) if row["dropped"] in ("", "0")]
    lines = []
    for name, task, label, steps in lines_of(rows):
        found = _where(rows, task=task, label=label)
        tuned, probed = _where(found, kind="finetune", steps=steps), _where(found, kind="probe")
        if name not in NAMES.values():
            probed = []  # they are in the line of the recipe's steps
        cells = [spread(_where(some, init=init)) for some in (tuned, probed) for init in ("pretrained", "random")]
        lines.append([name, *cells, spread(found[:1], "chance")])
    head = ["", "fine-tuned", "from scratch", "probe", "probe of random weights", "largest class"]
    return _table(head, lines)


def pretrained(rows: Sequence[Row]) -> str:
    """Retrieval after pretraining, by its length."""
    lines = []
    found = _where(newest(rows), kind="pretrain", dropped="50")
    for steps in sorted({row["steps"] for row in found}, key=int):
        some = _where(found, steps=steps)
        recalls = spread(some), spread(some, "second"), spread(some[:1], "chance")
        times = [mean(float(row[name]) / float(row["chance"]) for row in some) for name in ("value", "second")]
        lines.append([steps, str(len(some)), *recalls, *(f"{share:.1f}x" for share in times)])
    head = ["steps", "seeds", "R@5 text -> video", "R@5 audio -> video", "chance"]
    head += ["text -> video / chance", "audio -> video / chance"]
    return _table(head, lines)


def short_runs(rows: Sequence[Row]) -> list[Row]:
    """The pretraining runs of the sweep over DropToken: those of the fewest steps."""
    made = _where(rows, kind="pretrain")
    return [row for row in made if int(row["steps"]) == min(int(other["steps"]) for other in made)]


def drop_token(rows: Sequence[Row]) -> str:
    """Accuracy by the share of patches dropped, and the pace of a pretraining step measured by itself."""
    rows, lines = newest(rows), []
    for dropped in ("0", "25", "50", "75"):
        made = _where(short_runs(rows), dropped=dropped)
        tuned = _where(rows, kind="finetune", dropped=dropped, init="pretrained", task="video", label="motion")
        step = _job(dropped)
        pace, memory = f"{float(step['rate']):.1f}", f"{float(step['peak_mib']):.0f}"
        lines.append([f"{dropped}%", str(len(made)), spread(made), pace, memory, str(len(tuned)), spread(tuned)])
    head = ["dropped", "seeds", "pretraining: R@5 text -> video", "clips/s", "memory, MiB"]
    return _table([*head, "seeds", "fine-tuning: motion, top-1"], lines)


def _job(dropped: str) -> Row:
    """The newest row of STEPS for a pretraining step of 32 clips."""
    case = f"vatt-tiny b32 drop {dropped}%"
    with STEPS.open(newline="", encoding="utf-8") as file:
        *_, last = (row for row in csv.DictReader(file) if (row["op"], row["case"]) == ("pretrain", case))
    return last


def machine(rows: Sequence[Row]) -> str:
    """What all rows ran on, in a line."""
    rows = newest(rows)

    def every(name: str) -> str:
        return ", ".join(sorted({row[name] for row in rows}))

    return (
        f"Device: {every('device')}; Python {every('python')}, torch {every('torch')}, DeepSpeed {every('deepspeed')}; "
        f"commit {every('commit')}; sample of format {every('sample')}; "
        f"seeds {every('seed')}; mean ± standard deviation over seeds."
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes an .svg of bars with the spread over seeds: pretrained beside from scratch, and DropToken."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = newest(rows)
    with pyplot.rc_context({"svg.hashsalt": "vatt", "svg.fonttype": "path", "font.size": 10}):
        figure, axes = pyplot.subplot_mosaic([["bars", "bars"], ["accuracy", "pace"]], figsize=(10, 7.4))
        _bars(axes["bars"], rows)
        _dropped(axes["accuracy"], rows)
        shares = sorted({int(row["dropped"]) for row in short_runs(rows)})
        axes["pace"].bar(shares, [float(_job(str(share))["rate"]) for share in shares], 14, color="#0b5bd3")
        axes["pace"].set(ylabel="clips/s", title="Pace of a pretraining step by the patches dropped")
        for name in ("accuracy", "pace"):
            axes[name].set_xticks((0, 25, 50, 75), ("0%", "25%", "50%", "75%"))
            axes[name].set_ylim(bottom=0)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    tuned = _where(rows, kind="finetune", dropped="0")
    tasks = lines_of(tuned)
    for place, (init, name, colour) in enumerate(
        (("pretrained", "pretrained", "#0b5bd3"), ("random", "from scratch", "#9aa4ae"))
    ):
        wanted = [dict(task=task, label=label, steps=steps, init=init) for _, task, label, steps in tasks]
        heights, errors = zip(*(percent(_where(tuned, **one)) or (0, 0) for one in wanted), strict=True)
        places = [number + 0.38 * place - 0.19 for number in range(len(tasks))]
        axes.bar(places, heights, 0.36, yerr=[error or 0 for error in errors], capsize=3, color=colour, label=name)
    axes.axhline(100 / 6, color="#57606a", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(tasks)), [name.replace(", ", ",\n") for name, *_ in tasks])
    axes.set(ylabel="top-1, % of held-out clips", title="Fine-tuning for equally many steps")
    axes.legend(frameon=False)


def _dropped(axes: Any, rows: Sequence[Row]) -> None:
    tuned = _where(rows, kind="finetune", init="pretrained", task="video", label="motion")
    for name, found, colour in (
        ("fine-tuning: motion, top-1", tuned, "#0b5bd3"),
        ("pretraining: R@5 text -> video", short_runs(rows), "#c2410c"),
    ):
        shares = sorted({int(row["dropped"]) for row in found})
        values, errors = zip(*(percent(_where(found, dropped=str(share))) or (0, 0) for share in shares), strict=True)
        axes.errorbar(shares, values, [error or 0 for error in errors], marker="o", capsize=3, color=colour, label=name)
    axes.set(ylabel="%", title="Accuracy by the patches dropped")
    axes.legend(frameon=False, loc="lower left")


TABLES = {"pretraining": pretrained, "scratch": against_scratch, "droptoken": drop_token, "machine": machine}
