"""The study on the sample: its commands are valid, and the page is that of the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from train.evaluation.cli import parse as parse_evaluation
from train.finetuning.cli import parse as parse_finetuning
from train.pretraining.cli import parse as parse_pretraining
from train.study.__main__ import FIELDS, PAGE, PICTURE, RESULTS, filled, main, origin, row_of
from train.study.experiments import Experiment, StudyError, finetuning, pretraining, probe, run_missing, study
from train.study.tables import TABLES, against_scratch, draw, newest
from vatt.models import VATT
from vatt.presets import preset
from vatt.process import ProcessFailed
from vatt.results import Table, append, read
from vatt.weights.folder import save_pretrained


def test_every_command_is_valid(tmp_path):
    experiments = study(tmp_path, (0, 1))
    assert len({experiment.line for experiment in experiments}) == len(experiments)
    config = preset("vatt-tiny")
    config.text.vocab_size = 5
    for seed in (0, 1):
        save_pretrained(VATT(config), tmp_path / f"pretrain-780-drop50-seed{seed}")
    for experiment in experiments:
        script, *words = experiment.command
        if script == "train/pretrain.py":
            job = parse_pretraining(words, on_gpu=False)
            assert 1 - job.config.model.video.patch_sampling_rate == experiment.what["dropped"] / 100
            assert job.config.run.seed == experiment.what["seed"]
        elif script == "train/finetune.py":
            job = parse_finetuning(words)
            assert (job.config.init is None) == (experiment.what["init"] == "random")
            assert (job.config.task, job.config.label) == (experiment.what["task"], experiment.what["label"])
            kept = job.config.model.video
            dropped = round(100 * (1 - kept.patch_sampling_rate)) if kept.random_patch_sampling else 0
            assert dropped == experiment.what["dropped"]
        else:
            options = parse_evaluation(words)
            assert (options.random_init is None) == (experiment.what["init"] == "pretrained")


def test_what_is_missing_is_run_once_and_what_was_stopped_anew(tmp_path, capsys):
    def made(name, code):
        result = tmp_path / name / "result.json"
        return Experiment({"kind": "pretrain", "seed": name}, ("-c", code.format(result=str(result))), result)

    writes = "import pathlib; f = pathlib.Path({result!r}); f.parent.mkdir(); f.write_text('3')"  # fails where one is
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "half").touch()
    found = [made("new", writes), made("stopped", writes)]
    table = Table(tmp_path / "rows.csv", ("command", "seed", "metric", "value", "chance"), resume=True)

    def row_of(experiment, where):
        return where | {"command": experiment.line, "seed": experiment.what["seed"], "metric": "R@5", "chance": 0.5}

    for _ in range(2):
        run_missing(found, table, lambda path: {"value": 1.0}, row_of)
    assert [row["seed"] for row in table.rows] == ["new", "stopped"]
    assert capsys.readouterr().out.count("R@5 100.0% (chance 50.0%)") == 2
    with pytest.raises(ProcessFailed, match="status 5"):
        run_missing([made("bad", "raise SystemExit(5)")], table, lambda path: {}, row_of)
    assert len(table.rows) == 2


def test_rows_are_what_the_commands_left(tmp_path):
    level = {"r1": 0.1, "r5": 0.4, "r10": 0.8, "median_rank": 5.0, "n": 96}
    made = pretraining(tmp_path, 1, 260, 75)
    made.result.parent.mkdir(parents=True)
    table = {"text_to_video": level, "audio_to_video": {**level, "r5": 0.05}, "chance": {**level, "r5": 0.052}}
    made.result.write_text(json.dumps({"table": table}))
    paces = [{"kind": "train", "step": step, "samples_per_s": pace} for step, pace in ((20, 9.0), (40, 5.0), (60, 7.0))]
    (made.result.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in paces))
    row = row_of(made, origin(RESULTS))
    assert (row["value"], row["second"], row["steps"], row["samples_per_s"]) == (0.4, 0.05, 60, 7.0)
    tuned = finetuning(tmp_path, "random", 0, "video", "motion")
    tuned.result.parent.mkdir(parents=True)
    tuned.result.write_text("{")
    with pytest.raises(StudyError, match=r"evaluation.json: cannot be read"):
        row_of(tuned, origin(RESULTS))
    append(tmp_path / "r.csv", [row], FIELDS)
    append(tmp_path / "r.csv", [{**row, "value": 0.5}], FIELDS)
    rows = read(tmp_path / "r.csv", FIELDS)
    assert [r["value"] for r in rows] == ["0.4", "0.5"]
    assert [r["value"] for r in newest(rows)] == ["0.5"]
    assert probe(tmp_path, "random", 2, "video", "shape").line.count("--random-init 2") == 1


def test_what_cannot_be_used_is_named(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    assert main(["--page", "--results", str(path)]) == 1
    append(path, [], FIELDS)
    assert main(["--page", "--results", str(path)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"error: {path}: cannot be read")
    assert told[1] == f"error: {path}: holds no row"


def test_means_and_spreads():
    base = dict.fromkeys(FIELDS, "")
    rows = [
        {**base, "kind": "finetune", "task": "video", "label": "motion", "init": init, "dropped": "0",
         "value": str(value), "chance": "0.2", "command": f"{init} {value}"}
        for init, values in (("pretrained", (0.5, 0.7)), ("random", (0.25,)))
        for value in values
    ]  # fmt: skip
    lines = against_scratch(rows).splitlines()
    assert lines[2] == "| motion, from video | 60.0 ± 14.1% | 25.0% |  |  | 20.0% |"
    assert len(lines) == 3
    longer = [{**row, "steps": "200"} for row in rows]
    fewer = [{**row, "steps": "50", "command": row["command"] + " --steps 50", "value": "0.4"} for row in rows]
    probed = {**rows[0], "kind": "probe", "dropped": "", "steps": "9", "value": "0.3", "command": "probe"}
    lines = against_scratch([*longer, *fewer, probed]).splitlines()
    assert lines[2] == "| motion, from video | 60.0 ± 14.1% | 25.0% | 30.0% |  | 20.0% |"
    assert lines[3] == "| motion, from video, 50 steps | 40.0 ± 0.0% | 40.0% |  |  | 20.0% |"


def test_the_page_is_that_of_the_committed_results(tmp_path):
    rows, page = read(RESULTS, FIELDS), PAGE.read_text()
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == set(TABLES)
    assert filled(page, rows) == page
    assert Path(PICTURE).read_text().startswith("<?xml")
    draw(rows, tmp_path / "results.svg")
    assert (tmp_path / "results.svg").stat().st_size > 10_000
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{12}", row["commit"]), row
        assert row["dirty"] == "False", row
        assert row["device"], row
        assert 0 <= float(row["value"]) <= 1, row
