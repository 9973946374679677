"""What a model costs, what a model folder or a run holds, and which kernels run here: as dictionaries ready for JSON.

The command ``vatt info`` prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vatt.analysis.flops import classifier_flops, forward_flops, tokens, train_flops_per_sample
from vatt.clip import InputConfig
from vatt.config import to_dict
from vatt.data.tokenizer import FILE, TextError, Tokenizer
from vatt.environment import environment
from vatt.inference.spaces import spaces_of
from vatt.kernels import explain, operations
from vatt.kernels.selection import cache
from vatt.kernels.selection.problems import words
from vatt.models import VATT
from vatt.models.classifier import Classifier
from vatt.models.config import ClassifierConfig, VATTConfig
from vatt.models.text import WordEmbedding
from vatt.presets import preset
from vatt.weights.folder import WEIGHTS, PretrainedError, model_folder, read_config

# phase -> whether DropToken is on
PHASES = {"pretraining": True, "inference": False}


def parameters(config: VATTConfig) -> dict[str, int]:
    """Parameters of each part of the model (video, audio, text or the shared one; head) and their ``total``.

    ``words`` are the word embeddings, which one of the parts already holds. No memory is allocated for them.
    """
    with torch.device("meta"):
        model = VATT(config)
    parts = {name: _count(part) for name, part in model.named_children()}
    words = sum(_count(part) for part in model.modules() if isinstance(part, WordEmbedding))
    return {**parts, "total": sum(parts.values()), "words": words}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def describe(names: Iterable[str]) -> dict[str, Any]:
    """The named models, this machine and its kernels.

    Raises:
        ConfigError: an unknown model.
    """
    models = {name: describe_model(preset(name)) for name in names}
    found = {"models": models, "environment": environment(), "kernels": describe_kernels()}
    return found | {"measured": describe_measured()}


def describe_model(config: VATTConfig) -> dict[str, Any]:
    """Parameters, tokens and operations (of one clip) of a model."""
    return {
        "parameters": parameters(config),
        "tokens": {name: asdict(count) for name, count in tokens(config).items()},
        "sentences": config.input.candidates,
        "forward_flops": {
            phase: {name: asdict(part) for name, part in forward_flops(config, training).items()}
            for phase, training in PHASES.items()
        },
        "train_flops_per_sample": train_flops_per_sample(config),
    }


def describe_kernels() -> list[dict[str, Any]]:
    """All backends of all operations, as `vatt.kernels.explain` sees them for this machine's usual device and type."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    rows = [asdict(row) for op in operations() for row in explain(op, device, dtype)]
    return [{**row, "device": device, "dtype": str(dtype).removeprefix("torch.")} for row in rows]


def describe_measured() -> dict[str, Any]:
    """What runs on this machine's usual device have measured of its kernels: the ``file`` that holds it, and by
    operation and problem the backend that is taken, the milliseconds of those that were right, and what was wrong with
    the others."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    rows = []
    for decision in cache.load(device).decisions:
        timed = {name: verdict.ms for name, verdict in decision.verdicts.items() if verdict.ms is not None}
        wrong = {name: verdict.why for name, verdict in decision.verdicts.items() if verdict.state == "failed"}
        about = {"op": decision.problem.op, "problem": words(decision.problem), "backend": decision.backend}
        rows.append({**about, "dtype": str(decision.problem.dtype), "milliseconds": timed, "left_out": wrong})
    return {"file": str(cache.cache_file(device)), "decisions": rows}


def describe_folder(path: str | Path) -> dict[str, Any]:
    """What a model folder or a run holds: kind, parameters, input, spaces or classes, tokens, GFLOPs.

    ``parameters`` are counted from the configuration; ``stored`` says what the file of weights holds. GFLOPs are those
    of the forward pass of one clip (and one sentence) in inference, without DropToken.

    Raises:
        PretrainedError: there is no model, or one of its files cannot be read.
    """
    folder = model_folder(path)
    config = read_config(folder)
    found: dict[str, Any] = {"folder": str(folder), "name": config.name}
    try:
        found |= _pretrained(config, folder) if isinstance(config, VATTConfig) else _classifier(config)
    except ValueError as error:
        if isinstance(error, PretrainedError):
            raise
        raise PretrainedError(f"{folder}: {error}") from error
    run = _run(folder.parent) if folder.name == "model" else {}
    return {**found, "stored": _stored(folder / WEIGHTS), **run, "config": to_dict(config)}


def _pretrained(config: VATTConfig, folder: Path) -> dict[str, Any]:
    work = {name: part.total / 1e9 for name, part in forward_flops(config, training=False).items()}
    return {
        "kind": f"VATT, pretrained; {config.backbone} backbone, {config.head.kind} head",
        "parameters": parameters(config),
        "input": _input(config.input, ("video", "audio", "text")),
        "spaces": spaces_of(config),
        "tokens": {name: count.total for name, count in tokens(config, training=False).items()},
        "gflops": {**work, "all": sum(work.values())},
        "tokenizer": _vocabulary(folder),
    }


def _classifier(config: ClassifierConfig) -> dict[str, Any]:
    with torch.device("meta"):
        model = Classifier.from_config(config)
    whole = VATTConfig(input=config.input, video=config.video, waveform=config.waveform)
    transformer = config.network == "transformer"
    labels = "one label" if config.labels == "single" else "any labels"
    return {
        "kind": f"{'' if transformer else 'convolutional '}classifier of {config.modality}, {labels} a clip",
        "parameters": {
            **{name: _count(part) for name, part in model.named_children()},
            "total": _count(model),
        },
        "input": _input(config.input, (config.modality,)),
        "classes": config.classes or config.num_classes,
        **({"tokens": {config.modality: tokens(whole, training=False)[config.modality].total}} if transformer else {}),
        "gflops": {"all": classifier_flops(config) / 1e9},
    }


def _input(spec: InputConfig, modalities: tuple[str, ...]) -> dict[str, Any]:
    fields = asdict(spec)
    names = {"video": ("frames", "fps", "size"), "audio": ("sample_rate",), "text": ("words", "candidates")}
    return {"seconds": spec.seconds, **{name: fields[name] for modality in modalities for name in names[modality]}}


def _vocabulary(folder: Path) -> int | None:
    """Words that the tokenizer knows, or None without tokenizer.json."""
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


def _run(folder: Path) -> dict[str, Any]:
    """The last record of training and the checkpoints, if the folder is that of a run."""
    found: dict[str, Any] = {}
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [record for line in lines if (record := json.loads(line)).get("kind") == "train"]
    except (OSError, ValueError, AttributeError, RecursionError):  # no run, or a record that was cut off
        steps = []
    if steps:
        found["run"] = {name: steps[-1][name] for name in ("step", "loss") if name in steps[-1]}
    if (folder / "checkpoints").is_dir():
        found["checkpoints"] = sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir())
    return found
