"""The recipe sample-large begins: its set is built where it is not there, and its model takes what is read of it."""

from __future__ import annotations

import pytest
import torch

from train.core import data
from train.core.ranks import RankContext
from train.pretraining.cli import parse
from train.study.__main__ import FIELDS, PAGE, RESULTS
from vatt.objectives.pretraining import Pretraining
from vatt.results import read
from vatt.sample import SampleError, build


def test_the_recipe_builds_its_set_once(tmp_path, monkeypatch):
    built = []

    def few(out, **options):
        built.append(options["name"])
        return build(out, train=3, val=1, workers=1, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "build", few)
    monkeypatch.setattr(data, "wait_for_all", lambda: None)
    context, job = RankContext(0, 1, torch.device("cpu")), parse(["--config", "sample-large"], on_gpu=False)
    for _ in range(2):
        data.build_large(job.config.data.sources, context, str)
    data.build_large(["others.csv"], context, str)
    assert built == ["large"]
    (found,) = data.read_data(job.config.data).values()
    assert (job.sample, len(found.clips), found.clips[0].extra["shape"]) == (False, 4, "triangle")
    assert (job.config.model.name, job.config.run.batch_size) == ("vatt-small", 256)
    with torch.device("meta"):
        Pretraining(job.config.model).check_input()
    found.clips[0].video.write_bytes(b"")
    with pytest.raises(SampleError, match="changed since it was written"):
        data.build_large(job.config.data.sources, context, str)


def test_the_page_says_what_the_rows_say():
    found = {(row["label"], row["init"]): row for row in read(RESULTS.with_name("sample_large.csv"), FIELDS)}
    shown = {name: f"{float(row['value']):.1%}" for name, row in found.items()}
    chance = f"{float(found['shape', 'random']['chance']):.1%}"
    page = PAGE.read_text(encoding="utf-8")
    assert f"| shape | {shown['shape', 'pretrained']} | {shown['shape', 'random']} | {chance} |" in page
    assert f"| motion | {shown['motion', 'pretrained']} | not run | {chance} |" in page
    assert {row["n"] for row in found.values()} == {"384"}
