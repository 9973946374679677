"""``vatt info DIR``: what a model folder, or a run, holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from vatt.analysis.flops import classifier_flops, forward_flops, tokens
from vatt.analysis.info import parameters
from vatt.clip import InputConfig
from vatt.config import to_dict
from vatt.data.tokenizer import FILE, TextError, Tokenizer
from vatt.inference.spaces import spaces_of
from vatt.models.classifier import build_classifier
from vatt.models.config import ClassifierConfig, VATTConfig
from vatt.weights.folder import WEIGHTS, PretrainedError, model_folder, read_config

_CLASSES = 20  # names that are printed


def describe_folder(path: str | Path) -> dict[str, Any]:
    """What a model folder or a run holds, ready for JSON: kind, parameters, input, spaces or classes, tokens, FLOPs.

    ``parameters`` are counted from the configuration; ``stored`` says what the file of weights holds. GFLOPs are those
    of the forward pass of one clip (and one sentence) in inference, without DropToken.

    Raises:
        PretrainedError: there is no model, or one of its files cannot be read.
    """
    folder = model_folder(path)
    config = read_config(folder)
    found: dict[str, Any] = {"folder": str(folder), "name": config.name}
    try:
        found |= _of_model(config, folder) if isinstance(config, VATTConfig) else _of_classifier(config)
    except ValueError as error:
        if isinstance(error, PretrainedError):
            raise
        raise PretrainedError(f"{folder}: {error}") from error
    run = _of_run(folder.parent) if folder.name == "model" else {}
    return {**found, "stored": _stored(folder / WEIGHTS), **run, "config": to_dict(config)}


def show_folder(about: dict[str, Any], console: Console) -> None:
    """Prints it as a table of two columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, value in about.items():
        if name != "config":
            table.add_row(Text(name), Text(_in_words(name, value)))
    console.print(table)


def _of_model(config: VATTConfig, folder: Path) -> dict[str, Any]:
    work = {name: part.total / 1e9 for name, part in forward_flops(config, training=False).items()}
    return {
        "kind": f"VATT, pretrained; {config.backbone} backbone, {config.head.kind} head",
        "parameters": parameters(config),
        "input": _input(config.input, ("video", "audio", "text")),
        "spaces": spaces_of(config),
        "tokens": {name: count.total for name, count in tokens(config, training=False).items()},
        "gflops": {**work, "all": sum(work.values())},
        "tokenizer": _words(folder),
    }


def _of_classifier(config: ClassifierConfig) -> dict[str, Any]:
    with torch.device("meta"):
        model = build_classifier(config)
    whole = VATTConfig(input=config.input, video=config.video, waveform=config.waveform)
    return {
        "kind": f"classifier of {config.modality}, {'one label' if config.labels == 'single' else 'any labels'} a clip",
        "parameters": {
            **{name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
            "total": sum(p.numel() for p in model.parameters()),
        },
        "input": _input(config.input, (config.modality,)),
        "classes": config.classes or config.num_classes,
        "tokens": {config.modality: tokens(whole, training=False)[config.modality].total},
        "gflops": {"all": classifier_flops(config) / 1e9},
    }


def _input(spec: InputConfig, modalities: tuple[str, ...]) -> dict[str, Any]:
    fields = asdict(spec)
    names = {"video": ("frames", "fps", "size"), "audio": ("sample_rate",), "text": ("words", "candidates")}
    return {"seconds": spec.seconds, **{name: fields[name] for modality in modalities for name in names[modality]}}


def _words(folder: Path) -> int | None:
    """Rows that the tokenizer names, or None without tokenizer.json."""
    try:
        return Tokenizer.load(folder).vocab_size if (folder / FILE).is_file() else None
    except TextError as error:
        raise PretrainedError(str(error)) from error


def _stored(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (the file is no mapping)
            kinds = sorted({part.get_dtype() for part in parts})
        return {"tensors": len(parts), "types": kinds, "megabytes": round(path.stat().st_size / 1e6, 1)}
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"{path}: cannot be read: {error}") from error


def _of_run(folder: Path) -> dict[str, Any]:
    """The last record of training and the checkpoints, where the model is that of a run."""
    found: dict[str, Any] = {}
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [record for line in lines if (record := json.loads(line)).get("kind") == "train"]
    except (OSError, ValueError, AttributeError):  # not a run, or a record that was cut off: no reason to say nothing
        steps = []
    if steps:
        found["run"] = {name: steps[-1][name] for name in ("step", "loss") if name in steps[-1]}
    if (folder / "checkpoints").is_dir():
        found["checkpoints"] = sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir())
    return found


def _in_words(name: str, value: Any) -> str:
    if name == "tokenizer":
        return "none: text needs from_pretrained(..., vocabulary=FILE)" if value is None else f"{value:,} words"
    if name == "classes":
        if isinstance(value, int):
            return f"{value}, whose names are not known"
        return f"{len(value)}: {', '.join(value[:_CLASSES])}" + (", ..." if len(value) > _CLASSES else "")
    if isinstance(value, dict):
        nested = any(isinstance(part, dict) for part in value.values())
        parts = [f"{key}{':' if nested else ''} {_in_words('', part)}" for key, part in value.items()]
        return ("; " if nested else ", ").join(parts)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and value >= 1000 else str(value)
