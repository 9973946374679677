"""Writes the tables of docs/settings.md from the configurations' dataclasses: ``python docs/scripts/settings.py``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "settings.md"
sys.path.insert(0, str(ROOT))  # as a script: the checkout itself, not what is installed

from train.config.finetuning import FinetuneConfig  # noqa: E402
from train.config.pretraining import PretrainConfig  # noqa: E402
from vatt.config import FieldInfo, describe_fields  # noqa: E402

BEGIN, END = "<!-- tables: python docs/scripts/settings.py -->\n", "<!-- end of tables -->\n"


def tables() -> str:
    """A section for each class: all of pretraining; of fine-tuning what is its own."""
    shared = describe_fields(PretrainConfig)
    own = [field for field in describe_fields(FinetuneConfig) if field not in shared]
    parts = ["## Settings of pretraining\n", *_sections(shared)]
    parts += [
        "## Settings of fine-tuning\n",
        "Those that differ from pretraining, or are not there.\n",
        *_sections(own),
    ]
    return "\n".join(parts)


def write(text: str) -> str:
    """The page with the tables of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


def _sections(fields: list[FieldInfo]) -> Iterable[str]:
    """A heading and a table for each section that has settings of its own; the long description of the model last."""
    about = {field.key: field.description for field in fields if field.type == "section"}
    rows: dict[str, list[str]] = {}
    for field in fields:
        if field.type != "section":
            rows.setdefault(field.key.rpartition(".")[0], []).append(_row(field))
    for section in sorted(rows, key=lambda name: name.partition(".")[0] == "model"):
        yield f"### `{section}`\n" if section else "### The run itself\n"
        if about.get(section):
            yield f"{about[section].replace('``', '`')}\n"
        yield "| setting | type | default | |\n|---|---|---|---|"
        yield "\n".join(rows[section]) + "\n"


def _row(field: FieldInfo) -> str:
    name = field.key.rpartition(".")[2]
    kind = " or ".join(f"`{part}`" for part in field.type.split(" | "))  # a bar would end the cell
    if field.range:
        kind += f" {field.range}"
    words = re.sub(r"\|", "&#124;", field.description.replace("``", "`"))
    return f"| `{name}` | {kind} | `{field.default}` | {words} |"


if __name__ == "__main__":
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
