"""The page of a model on the hub, written from the records of its run: Markdown under a head of YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vatt.data.tokenizer import Tokenizer
from vatt.errors import printable
from vatt.evaluation.retrieval import EQUAL, NAMES
from vatt.hub.records import Records
from vatt.inference.spaces import spaces_of
from vatt.models.config import ClassifierConfig, VATTConfig

PROJECT = "vatt-torch"
_CURVE_ROWS = 8
_SETTINGS = {  # of a run, by where they stand in its config.json
    "run.steps": "steps",
    "run.batch_size": "batch size",
    "run.seed": "seed",
    "optim.kind": "optimizer",
    "optim.lr": "learning rate",
    "optim.schedule": "schedule",
    "optim.warmup_steps": "warm-up steps",
    "optim.weight_decay": "weight decay",
    "engine.precision": "precision",
    "model.video.patch_sampling_rate": "DropToken, share of patches kept (video)",
    "model.waveform.patch_sampling_rate": "DropToken, share of patches kept (sound)",
    "model.loss.kind": "contrastive loss",
    "model.loss.temperature": "temperature",
    "data.eval_share": "share of videos held out, where the data name no split",
    "label": "label",
    "freeze_backbone": "backbone frozen",
}
_ENVIRONMENT = ("vatt-torch", "python", "torch", "deepspeed", "CPU", "GPU", "GPU 0", "CUDA", "ranks", "type")
# Marks of Markdown and HTML; what begins a list or a rule; and what makes links and mentions of plain text.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|!&~$@]|^[-+=]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def model_card(
    name: str,
    config: VATTConfig | ClassifierConfig,
    parameters: int,
    records: Records,
    license: str,
    tokenizer: Tokenizer | None = None,
) -> str:
    """The text of README.md. What a run did not write is said to be not known, never guessed.

    Args:
        name: OWNER/NAME.
        parameters: numbers in the weights.
        license: an identifier of the hub, such as apache-2.0.
    """
    figures = [
        *_titled("Retrieval on held-out clips", _retrieval(records)),
        *_titled("Classification of held-out clips", _classification(records)),
    ]
    limits = "The model knows what its data show, with their gaps and leanings; nobody has examined it for these."
    if figures:
        limits += " The figures above are of held-out clips of the same data, and say nothing of others."
    parts = [
        _head(config, records, license),
        f"# {name.partition('/')[2]}",
        _opening(config, parameters, records),
        "## Use",
        f"With the package `{PROJECT}`:",
        _use(name, config, tokenizer),
        "## What it reads and gives",
        _reads(config, tokenizer),
        *_titled("Data", _data(records)),
        *_titled("Recipe", _recipe(config, records)),
        *_titled("Curves", _curves(records)),
        *figures,
        *_titled("Made with", _table(("", ""), _facts(records.environment, {name: name for name in _ENVIRONMENT}))),
        "## Limits",
        limits,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(config: VATTConfig | ClassifierConfig, records: Records, license: str) -> str:
    """Only words that are known to be harmless in YAML, and numbers."""
    task = "feature-extraction"
    tags = ["vatt", "video", "audio", "text", "video-text-retrieval"]
    if isinstance(config, ClassifierConfig):
        task, tags = f"{config.modality}-classification", ["vatt", config.modality]
    lines = ["---", f"license: {json.dumps(license)}", f"library_name: {PROJECT}", f"pipeline_tag: {task}", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _opening(config: VATTConfig | ClassifierConfig, parameters: int, records: Records) -> str:
    what = "A Video-Audio-Text Transformer ([VATT](https://arxiv.org/abs/2104.11178), Akbari et al. 2021)"
    kind = "that embeds video, sound and sentences in common spaces"
    if isinstance(config, ClassifierConfig):
        kind = f"fine-tuned to classify {'sound' if config.modality == 'audio' else 'video'}"
    text = f"{what} {kind}: configuration {_plain(config.name)}, {parameters / 1e6:.1f} million parameters."
    if not records.train:
        return (
            text
            + " The folder that it comes from has no records of a run: of its data and recipe nothing is known here."
        )
    return text + f" Trained for {records.train[-1]['step']:,} steps."


def _use(name: str, config: VATTConfig | ClassifierConfig, tokenizer: Tokenizer | None) -> str:
    kind = "Classifier" if isinstance(config, ClassifierConfig) else "VATT"
    if isinstance(config, ClassifierConfig):
        call = f'model.classify("{"bark.wav" if config.modality == "audio" else "holiday.mp4"}", top=3)'
    elif tokenizer is None:
        call = 'model.embed_audio("bark.wav") @ model.embed_video("holiday.mp4", space="audio")'
    else:
        call = 'model.embed_text("a dog barks") @ model.embed_video("holiday.mp4")'
    return f'```python\nfrom vatt import {kind}\nmodel = {kind}.from_pretrained("{name}")\nprint({call})\n```'


def _reads(config: VATTConfig | ClassifierConfig, tokenizer: Tokenizer | None) -> str:
    spec = config.input
    inputs = {
        "video": f"{spec.frames} frames of {spec.size} x {spec.size} pixels, {spec.fps:g} a second",
        "audio": f"{spec.samples:,} samples, {spec.sample_rate:,} Hz, mono",
    }
    if isinstance(config, ClassifierConfig):
        names = ", ".join(_plain(name) for name in config.classes[:20])
        more = f" and {len(config.classes) - 20:,} more" if len(config.classes) > 20 else ""
        kind = "one class" if config.labels == "single" else "any number of classes"
        return f"{inputs[config.modality]} -> {kind} of {config.num_classes:,}" + (
            f": {names}{more}." if names else "."
        )
    words = "a vocabulary that is not part of it" if tokenizer is None else f"{tokenizer.vocab_size:,} words"
    inputs["text"] = f"{spec.words} words at most, of {words}"
    rows = []
    for modality, spaces in spaces_of(config).items():
        rows.append((modality, inputs[modality], ", ".join(f"{space} ({width})" for space, width in spaces.items())))
    return _table(("input", "a window", "spaces (dimensions)"), rows)


def _data(records: Records) -> str:
    if not records.train:
        return ""
    sources = _of(records.config, "data.sources")
    count = f"{len(sources)} {'source' if len(sources) == 1 else 'sources'}" if isinstance(sources, list) else ""
    lines = [text for text in (_plain(records.data), count) if text]
    return "; ".join(lines) + "." if lines else "The run has not recorded what its data are like."


def _recipe(config: VATTConfig | ClassifierConfig, records: Records) -> str:
    names = dict(_SETTINGS)
    if isinstance(config, ClassifierConfig):  # its settings hold those of the other modality, too
        other = "waveform" if config.modality == "video" else "video"
        names.pop(f"model.{other}.patch_sampling_rate")
    return _table(("setting", "value"), _facts(records.config, names))


def _curves(records: Records) -> str:
    """Some steps of the run as a table, and the pictures that it drew."""
    if not records.train:
        return ""
    last = len(records.train) - 1
    chosen = sorted({round(n * last / max(1, _CURVE_ROWS - 1)) for n in range(_CURVE_ROWS)})
    columns = {"loss": "loss", "vidtxt_loss": "video-text", "vidaud_loss": "video-audio", "audtxt_loss": "audio-text"}
    columns |= {"accuracy": "accuracy"}
    used = [key for key in columns if any(_is_number(record.get(key)) for record in records.train)]
    rows = [
        (f"{record['step']:,}", *(f"{record[k]:.3f}" if _is_number(record.get(k)) else "" for k in used))
        for record in (records.train[number] for number in chosen)
    ]
    pictures = [f"![{name.removesuffix('.png')}]({name})" for name in records.plots]
    return "\n\n".join([_table(("step", *(columns[key] for key in used)), rows), *pictures])


def _retrieval(records: Records) -> str:
    """Recall beside chance, and beside what an oracle reaches that knows what the data show."""
    table, oracle = records.retrieval.get("table"), records.retrieval.get("oracle")
    if not isinstance(table, dict):
        return ""
    rows: list[tuple[str, dict[str, Any]]] = []
    for key, level in table.items():
        plain = key.removesuffix("_equal")
        if isinstance(level, dict) and plain in NAMES:
            equal = f", or an equal {EQUAL[plain]}" if key != plain else ""
            rows.append((NAMES[plain] + equal, level))
            if equal and isinstance(level.get("chance"), dict):
                rows.append((f"chance of that{equal}", level["chance"]))
    if isinstance(oracle, dict):
        known = [(key, level) for key, level in oracle.items() if key in NAMES and isinstance(level, dict)]
        rows += [(f"oracle, {NAMES[key]}", level) for key, level in known if key != "chance"]
    shown = [
        (
            name,
            *(_percent(level.get(key)) for key in ("r1", "r5", "r10")),
            _shown(level.get("median_rank")),
            _count(level),
        )
        for name, level in rows
    ]
    text = _table(("", "R@1", "R@5", "R@10", "median rank", "queries"), shown)
    note = "" if any(name.startswith("oracle") for name, _ in rows) else "\n\nNo oracle is known for these data."
    return text + note


def _classification(records: Records) -> str:
    table = records.classification.get("table")
    if not isinstance(table, dict):
        return ""
    shares = {
        "top1": "top 1",
        "top5": "top 5",
        "chance": "chance (the most frequent class)",
        "mAP": "mAP",
        "AUC": "AUC",
    }
    rows = [(shares[key], _percent(value)) for key, value in table.items() if key in shares]
    rows += [(key, _shown(value)) for key, value in table.items() if key in ("d-prime", "n", "classes", "skipped")]
    rows.append(("views of a clip (windows x crops)", _shown(records.classification.get("views"))))
    return _table(("", ""), rows)


def _titled(title: str, text: str) -> tuple[str, ...]:
    return (f"## {title}", text) if text else ()


def _facts(values: dict[str, Any], names: dict[str, str]) -> list[tuple[str, str]]:
    found = [(label, _of(values, key)) for key, label in names.items()]
    return [(label, _shown(value)) for label, value in found if isinstance(value, str | int | float | bool)]


def _of(values: dict[str, Any], dotted: str) -> Any:
    """A value of nested objects; None where it is not there."""
    found: Any = values
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str, most: int = 300) -> str:
    """Text of a file as no markup: on one line, without what Markdown or HTML would read."""
    return _MARKUP.sub(r"\\\g<0>", printable(text[:most]).strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}%" if _is_number(value) else "n/a"


def _shown(value: Any) -> str:
    """A value of a record, which may be anything that JSON knows, as a cell of a table."""
    if value is None or isinstance(value, list | dict):
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else _plain(str(value))


def _count(level: dict[str, Any]) -> str:
    return str(level["n"]) if isinstance(level.get("n"), int) else ""
