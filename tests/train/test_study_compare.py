"""VATT beside the baseline on the sample: valid commands, rows of what they left, a page of these rows."""

from __future__ import annotations

import json
import re

import pytest

from train.finetuning.cli import parse as parse_finetuning
from train.pretraining.cli import parse as parse_pretraining
from train.study.compare import FIELDS, MODELS, PAGE, RESULTS, TUNED, comparison, filled, row_of, table
from train.study.experiments import StudyError
from vatt.models import VATT
from vatt.presets import preset
from vatt.results import append, read
from vatt.weights.folder import save_pretrained


def test_both_models_have_the_same_commands(tmp_path):
    found = comparison(tmp_path, (0, 1), steps=7)
    assert len({experiment.line for experiment in found}) == len(found) == 2 * len(MODELS) * (1 + 2 * len(TUNED))
    lines = {model: [e.line.replace(model, "MODEL") for e in found if e.what["model"] == model] for model in MODELS}
    assert lines["vatt-tiny"] == lines["mmv-tiny"]
    for model in MODELS:
        config = preset(model)
        config.text.vocab_size = 5
        save_pretrained(VATT(config), tmp_path / f"{model}-seed0")
    for experiment in found:
        script, *words = experiment.command
        if experiment.what["seed"] == 0:
            job = parse_pretraining(words, on_gpu=False) if "pretrain" in script else parse_finetuning(words)
            assert job.config.model.name.startswith(experiment.what["model"])
            assert job.config.run.steps == 7


def test_a_row_has_what_a_run_found_and_took(tmp_path):
    made = comparison(tmp_path, (3,))[5]
    assert made.what["model"] == "mmv-tiny"
    config = preset("mmv-tiny")
    config.text.vocab_size = 5
    save_pretrained(VATT(config), made.result.parent / "model")
    where = dict.fromkeys(("time", "commit", "dirty", "device", "versions"), "x")
    with pytest.raises(StudyError, match=r"retrieval.json: cannot be read"):
        row_of(made, where)
    level = {"r1": 0.1, "r5": 0.4, "n": 96}
    content = {
        "table": {"text_to_video": level, "audio_to_video": {**level, "r5": 0.3}, "chance": {**level, "r5": 0.05}}
    }
    made.result.write_text(json.dumps(content))
    record = {"kind": "train", "step": 9, "samples_per_s": 5.0, "memory_gb": 0.5}
    (made.result.parent / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    row = row_of(made, where)
    assert (row["value"], row["second"], row["chance"], row["memory_gb"], row["steps"]) == (0.4, 0.3, 0.05, 0.5, 9)
    assert row["gflops"] == pytest.approx(1.2, rel=0.1)
    assert row["parameters"] == sum(p.numel() for p in VATT(config).parameters())
    append(tmp_path / "rows.csv", [row, {**row, "model": "vatt-tiny", "command": "other", "value": 0.2}], FIELDS)
    rows = read(tmp_path / "rows.csv", FIELDS)
    lines = table(rows).splitlines()
    assert lines[2] == "| text to video, R@5 | 20.0% | 40.0% | 5.0% |"
    assert "| clips a second in pretraining, the fastest run | 5 | 5 |  |" in lines
    slower = {**rows[0], "command": "seed 4", "samples_per_s": "3"}
    assert "| clips a second in pretraining, the fastest run | 5 | 5 |  |" in table([*rows, slower]).splitlines()
    assert not any("fine-tuned" in line for line in lines)
    page = filled("a\n<!-- table: compare -->\nold\n<!-- end -->\nb", rows)
    assert page.startswith("a\n<!-- table: compare -->\n| ")
    assert page.endswith("1 seed, pretrain 9 steps; x; x.\n<!-- end -->\nb")


def test_the_page_is_that_of_the_committed_rows():
    page = PAGE.read_text()
    assert len(re.findall(r"<!-- table: compare -->\n.*?<!-- end -->", page, re.S)) == 1
    if RESULTS.exists():
        rows = read(RESULTS, FIELDS)
        assert filled(page, rows) == page
        assert all(row["dirty"] == "False" for row in rows)
