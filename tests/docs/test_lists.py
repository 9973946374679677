"""What the project has is in its documents: data sets, tasks, models, recipes, operations, sub-commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.__main__ import SUBCOMMANDS
from train.config import finetuning, pretraining
from train.evaluation.cli import TASKS
from vatt.__main__ import COMMANDS, JOBS
from vatt.data.datasets import DATASETS
from vatt.kernels import backends, operations
from vatt.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
LISTS = {
    "docs/datasets.md": [f"`{name}`" for name in DATASETS],
    "docs/after-pretraining.md": [f"--task {name} " for name in TASKS],
    "docs/settings.md": [f"`{name}`" for name in (*PRESETS, *pretraining.RECIPES, *finetuning.RECIPES)],
    "docs/kernels.md": [f"`{op}`" for op in operations()] + [name for op in operations() for name in backends(op)],
    "docs/benchmarks.md": [f"python -m bench {name}" for name in SUBCOMMANDS],
}


@pytest.mark.parametrize("page", LISTS)
def test_a_page_names_all_that_there_is(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in LISTS[page] if name not in text] == []


def test_the_index_of_commands_has_them_all_and_no_other():
    table = (
        (ROOT / "docs" / "start.md").read_text(encoding="utf-8").partition("## All commands")[2].partition("## Next")[0]
    )
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`vatt (\w+)`", first)) == sorted([*COMMANDS, *JOBS])


def test_the_sub_commands_of_vatt_are_shown():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in (*COMMANDS, *JOBS) if f"vatt {name}" not in text] == []
