"""Released TensorFlow weights to a model folder of ours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.models.classifier import Classifier, build_classifier
from vatt.models.config import ClassifierConfig, VATTConfig
from vatt.models.vatt import VATT
from vatt.official import variables
from vatt.pretrained import save_pretrained
from vatt.released.accounts import account, describe
from vatt.released.bundle import Bundle
from vatt.released.choose import choose
from vatt.released.errors import ReleasedError
from vatt.released.fit import Converted, check_fit, fill

ACCOUNT = "conversion.json"


@dataclass(frozen=True)
class Report:
    """What became of every key of a checkpoint. ``parameters`` counts numbers, without running statistics."""

    model: str
    files: list[str]
    folder: Path
    parameters: int
    converted: list[Converted]
    slots: list[str]
    bookkeeping: list[str]
    unused: list[str]

    def to_json(self) -> dict[str, Any]:
        """As ``conversion.json`` holds it."""
        return {
            "model": self.model,
            "files": self.files,
            "parameters": self.parameters,
            "counts": {
                "converted": len(self.converted),
                "optimizer_slots": len(self.slots),
                "bookkeeping": len(self.bookkeeping),
                "unused": len(self.unused),
            },
            "unused": self.unused,
            "bookkeeping": self.bookkeeping,
            "converted": [one.to_json() for one in self.converted],
        }


def convert(prefix: str | Path, model: str, out: str | Path, overrides: Sequence[str] = ()) -> Report:
    """Converts a TensorFlow checkpoint to ``out``: model.safetensors, config.json and conversion.json.

    Every variable must fit and be finite; optimizer slots are not read. Until all is written, nothing stands at
    ``out``. Memory: the model, and one variable.

    Args:
        prefix: see `Bundle`.
        model: a name of `vatt.presets`, or the path of a configuration (.json), an official one or one of ours.
        out: a folder that does not exist or is empty.
        overrides: ``section.field=value``.

    Raises:
        ReleasedError: the files are damaged, do not fit the model, or ``out`` is taken; the message says which and how.
        ConfigError: no such model, or a configuration or override that cannot be used.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReleasedError(f"{out}: exists and is not an empty folder; name another one")
    bundle = Bundle(prefix)
    accounts = account(bundle.keys())
    config = choose(model, bundle, accounts, overrides)
    made = _build(config)
    wanted = variables(made)
    check_fit(config.name, describe(accounts.model), bundle, accounts.model, wanted)
    converted = fill(made, bundle, accounts.model, wanted)
    report = Report(
        model=config.name,
        files=[path.name for path in bundle.files()],
        folder=out,
        parameters=sum(parameter.numel() for parameter in made.parameters()),
        converted=converted,
        slots=accounts.slots,
        bookkeeping=accounts.bookkeeping,
        unused=accounts.unused,
    )
    with _appearing(out) as folder:
        save_pretrained(made, folder)
        (folder / ACCOUNT).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    return report


def _build(config: VATTConfig | ClassifierConfig) -> VATT | Classifier:
    try:
        return VATT(config) if isinstance(config, VATTConfig) else build_classifier(config)
    except ValueError as error:
        raise ReleasedError(f"{config.name}: cannot be built: {error}") from error


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name once all is written, and goes if that fails."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.part")
    folder.mkdir()
    try:
        yield folder
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
