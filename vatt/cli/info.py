"""``vatt info``: the models, this machine and its kernels. ``vatt info DIR``: what a model folder or a run holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vatt.cli.progress import waiting
from vatt.config import ConfigError, to_dict
from vatt.errors import UserError
from vatt.files import check_there
from vatt.presets import PRESETS, preset

_SHOWN_CLASSES = 20

Titled = tuple[str, Table]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="DIR", help="describe a model folder or a run")
    parser.add_argument("--model", metavar="NAME", help=f"one model in detail: {', '.join(PRESETS)}")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with the model's configuration")


def run(options: argparse.Namespace) -> int:
    """Prints tables or JSON.

    Raises:
        UserError: a folder and a model are given, the model is not known, or the folder holds none.
    """
    if options.folder is not None and options.model is not None:
        raise UserError("give a folder or --model, not both")
    if options.folder is not None:
        check_there(options.folder)
    with waiting("starting PyTorch"):
        from vatt.analysis.describe import describe, describe_folder

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    if options.folder is not None:
        about = describe_folder(options.folder)
        if options.json:
            print(json.dumps(about, indent=1))
        else:
            rows = [(name, _in_words(name, value)) for name, value in about.items() if name != "config"]
            console.print(_table(("", ""), rows, left=2))
        return 0
    try:
        found = describe([options.model] if options.model else PRESETS)
    except ConfigError as error:
        raise ConfigError(f"--model: {error}") from error
    if options.json:
        for name, model in found["models"].items():
            model["config"] = to_dict(preset(name))
        print(json.dumps(found, indent=1))
    else:
        _show(found, console, detailed=options.model is not None)
    return 0


def _show(found: dict[str, Any], console: Console, detailed: bool) -> None:
    """Prints the tables; ``detailed`` adds the operations by part."""
    tables = _model_tables(found["models"])
    if detailed:
        tables += [table for name, model in found["models"].items() for table in _detail_tables(name, model)]
    tables.append(("Environment", _table(("", ""), found["environment"].items(), left=2)))
    tables.append(_kernel_table(found["kernels"]))
    if found["measured"]["decisions"]:
        tables.append(_measured_table(found["measured"]))
    for title, table in tables:
        console.print(title, style="bold")  # not the table's own title, which rich wraps to the width of the table
        console.print(table)
        console.print()


def _model_tables(models: dict[str, dict[str, Any]]) -> list[Titled]:
    """Sizes and work of all models."""
    from vatt.analysis.describe import PHASES

    columns = ("video", "audio", "text", "unified", "head", "total", "words")
    sizes = [[name, *(_millions(m["parameters"].get(c)) for c in columns)] for name, m in models.items()]
    work = []
    for name, model in models.items():
        counts = [model["tokens"].get(part) for part in ("video", "audio")]  # none in a convolutional network
        kept = [f"{count['kept']} / {count['total']}" if count else "-" for count in counts]
        words = f"{model['sentences']} x {model['tokens']['text']['total']}"
        flops = [f"{_total(model['forward_flops'][phase]) / 1e9:.1f}" for phase in PHASES]
        work.append([name, *kept, words, *flops, f"{model['train_flops_per_sample'] / 1e9:.1f}"])
    return [
        ("Parameters, millions (words: word embeddings, in the total)", _table(("model", *columns), sizes)),
        (
            "A clip: tokens kept by DropToken / all; GFLOPs forward in pretraining and inference, of a training step",
            _table(("model", "video", "audio", "text", "pretraining", "inference", "training step"), work),
        ),
    ]


def _detail_tables(name: str, model: dict[str, Any]) -> list[Titled]:
    """GFLOPs of one model by modality and part, in both phases."""
    from vatt.analysis.flops import Flops

    tables, counted = [], tuple(asdict(Flops()))
    for phase, parts in model["forward_flops"].items():
        rows = [[part, *_gigas([flops[column] for column in counted])] for part, flops in parts.items()]
        rows.append(["all", *_gigas([sum(flops[column] for flops in parts.values()) for column in counted])])
        columns = ("part", *(column.replace("_", " ") for column in counted), "all")
        tables.append((f"{name}, {phase}: GFLOPs forward of one clip (2 a multiply-add)", _table(columns, rows)))
    return tables


def _gigas(counts: list[int]) -> list[str]:
    return [f"{count / 1e9:.3f}" if count else "-" for count in (*counts, sum(counts))]


def _kernel_table(rows: list[dict[str, Any]]) -> Titled:
    where = f"{rows[0]['device']}, {rows[0]['dtype']}"
    cells = []
    for row in rows:
        state = "used" if row["chosen"] else "; ".join(row["reasons"]) or "could run; another comes first"
        cells.append([row["op"], row["backend"], state])
    title = f'Backends of the operations, for backend="auto" on {where}'
    return title, _table(("operation", "backend", ""), cells, left=3)


def _measured_table(found: dict[str, Any]) -> Titled:
    """What was measured on this machine: the fastest first, and what is left out because it was wrong."""
    rows = []
    for row in found["decisions"]:
        timed = sorted(row["milliseconds"].items(), key=lambda pair: pair[1])
        times = [f"{name} {ms:.3g} ms" for name, ms in timed]
        times += [f"{name} left out: {why}" for name, why in row["left_out"].items()]
        rows.append(
            [row["op"], f"{row['problem']}, {row['dtype'].removeprefix('torch.')}", row["backend"], ", ".join(times)]
        )
    return f"Measured on this machine, before the order above ({found['file']})", _table(
        ("operation", "problem", "backend", ""), rows, left=4
    )


def _table(columns: Sequence[str], rows: Iterable[Iterable[str]], left: int = 1) -> Table:
    """A table whose first ``left`` columns are texts and the others figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


def _total(parts: dict[str, dict[str, int]]) -> int:
    return sum(sum(part.values()) for part in parts.values())


def _in_words(name: str, value: Any) -> str:
    if name == "tokenizer":
        return "none: text needs from_pretrained(..., vocabulary=FILE)" if value is None else f"{value:,} words"
    if name == "classes":
        if isinstance(value, int):
            return f"{value}, whose names are not known"
        return f"{len(value)}: {', '.join(value[:_SHOWN_CLASSES])}" + (", ..." if len(value) > _SHOWN_CLASSES else "")
    if isinstance(value, dict):
        nested = any(isinstance(part, dict) for part in value.values())
        parts = [f"{key}{':' if nested else ''} {_in_words('', part)}" for key, part in value.items()]
        return ("; " if nested else ", ").join(parts)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and value >= 1000 else str(value)
