"""``vatt info``: the models, this machine, and which backend every operation would use here; or a model folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from vatt.analysis.flops import Flops, forward_flops, tokens, train_flops_per_sample
from vatt.config import ConfigError, to_dict
from vatt.environment import environment
from vatt.kernels import explain, operations
from vatt.models import VATT
from vatt.models.config import VATTConfig
from vatt.models.text import WordEmbedding
from vatt.presets import PRESETS, preset
from vatt.weights.folder import PretrainedError

_PARTS = tuple(asdict(Flops()))
_PHASES = {"pretraining": True, "inference": False}


def parameters(config: VATTConfig) -> dict[str, int]:
    """Parameters of each part of the model (video, audio, text or the shared one; head), their total, and of these
    ``words``: the word embeddings. No memory is taken for them."""
    with torch.device("meta"):
        model = VATT(config)

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    parts = {name: count(part) for name, part in model.named_children()}
    words = sum(count(part) for part in model.modules() if isinstance(part, WordEmbedding))
    return {**parts, "total": sum(parts.values()), "words": words}


def describe(config: VATTConfig) -> dict[str, Any]:
    """Parameters, tokens and operations of a model, ready for JSON."""
    return {
        "parameters": parameters(config),
        "tokens": {name: asdict(count) for name, count in tokens(config).items()},
        "sentences": config.input.candidates,
        "forward_flops": {
            phase: {name: asdict(part) for name, part in forward_flops(config, training).items()}
            for phase, training in _PHASES.items()
        },
        "train_flops_per_sample": train_flops_per_sample(config),
    }


def kernels() -> list[dict[str, Any]]:
    """All backends of all operations, as `vatt.kernels.explain` sees them for this machine's usual device and type."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    rows = [asdict(row) for op in operations() for row in explain(op, device, dtype)]
    return [{**row, "device": device, "dtype": str(dtype).removeprefix("torch.")} for row in rows]


def _table(title: str, columns: Sequence[str], rows: Iterable[Iterable[str]], left: int = 1) -> Table:
    """A table whose first ``left`` columns are texts and the others figures."""
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


def _total(parts: dict[str, dict[str, int]]) -> int:
    return sum(sum(part.values()) for part in parts.values())


def _model_tables(models: dict[str, dict[str, Any]]) -> list[Table]:
    columns = ("video", "audio", "text", "unified", "head", "total", "words")
    sizes = [[name, *(_millions(m["parameters"].get(c)) for c in columns)] for name, m in models.items()]
    work = []
    for name, model in models.items():
        kept = [f"{model['tokens'][part]['kept']} / {model['tokens'][part]['total']}" for part in ("video", "audio")]
        words = f"{model['sentences']} x {model['tokens']['text']['total']}"
        flops = [f"{_total(model['forward_flops'][phase]) / 1e9:.1f}" for phase in _PHASES]
        work.append([name, *kept, words, *flops, f"{model['train_flops_per_sample'] / 1e9:.1f}"])
    return [
        _table("Parameters, millions (words: word embeddings, in the total)", ("model", *columns), sizes),
        _table(
            "A clip: tokens kept by DropToken / all; GFLOPs forward in pretraining and inference, of a training step",
            ("model", "video", "audio", "text", "pretraining", "inference", "training step"),
            work,
        ),
    ]


def _detail_tables(name: str, model: dict[str, Any]) -> list[Table]:
    """GFLOPs of one model by modality and part, in both phases."""
    tables = []
    for phase, parts in model["forward_flops"].items():
        rows = [[part, *_gigas([flops[column] for column in _PARTS])] for part, flops in parts.items()]
        rows.append(["all", *_gigas([sum(flops[column] for flops in parts.values()) for column in _PARTS])])
        columns = ("part", *(column.replace("_", " ") for column in _PARTS), "all")
        tables.append(_table(f"{name}, {phase}: GFLOPs forward of one clip (2 a multiply-add)", columns, rows))
    return tables


def _gigas(counts: list[int]) -> list[str]:
    return [f"{count / 1e9:.3f}" if count else "-" for count in (*counts, sum(counts))]


def _kernel_table(rows: list[dict[str, Any]]) -> Table:
    where = f"{rows[0]['device']}, {rows[0]['dtype']}"
    cells = []
    for row in rows:
        state = "used" if row["chosen"] else "; ".join(row["reasons"]) or "could run; another comes first"
        cells.append([row["op"], row["backend"], state])
    return _table(f'Backends of the operations, for backend="auto" on {where}', ("operation", "backend", ""), cells, 3)


def collect(names: Iterable[str]) -> dict[str, Any]:
    """All that this command knows, ready for JSON. Raises ConfigError for an unknown model."""
    models = {name: describe(preset(name)) for name in names}
    return {"models": models, "environment": environment(), "kernels": kernels()}


def show(found: dict[str, Any], console: Console, detailed: bool) -> None:
    """Prints the tables; ``detailed`` adds the operations by part."""
    tables = _model_tables(found["models"])
    if detailed:
        tables += [table for name, model in found["models"].items() for table in _detail_tables(name, model)]
    tables.append(_table("Environment", ("", ""), found["environment"].items(), 2))
    tables.append(_kernel_table(found["kernels"]))
    for table in tables:
        title, table.title = table.title, None  # rich would wrap a title to the width of its table
        console.print(title, style="bold")
        console.print(table)
        console.print()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``python -m vatt.analysis.info`` and ``vatt info``."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="describe a model folder or a run")
    parser.add_argument("--model", metavar="NAME", help=f"one model in detail: {', '.join(PRESETS)}")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with the model's configuration")


def run(options: argparse.Namespace) -> int:
    """The command; 1 with a message if the model is not known, or the folder holds none."""
    if options.folder is not None and options.model is not None:
        print("error: give a folder or --model, not both", file=sys.stderr)
        return 1
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    try:
        if options.folder is not None:
            from vatt.analysis.folder_info import describe_folder, show_folder

            about = describe_folder(options.folder)
            print(json.dumps(about, indent=1)) if options.json else show_folder(about, console)
            return 0
        found = collect([options.model] if options.model else PRESETS)
    except (ConfigError, PretrainedError) as error:
        print(f"error: {'--model: ' if options.model else ''}{error}", file=sys.stderr)
        return 1
    if options.json:
        for name, model in found["models"].items():
            model["config"] = to_dict(preset(name))
        print(json.dumps(found, indent=1))
    else:
        show(found, console, options.model is not None)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """``python -m vatt.analysis.info``; ``vatt info`` is the same."""
    parser = argparse.ArgumentParser("python -m vatt.analysis.info", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
