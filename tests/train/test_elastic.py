"""A run that goes on with other numbers of ranks and reading processes reads what it would have read."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from tests.train.pretraining import SMALL
from tests.train.ranks import run_ranks
from tests.train.reading_job import read_of
from train.config.pretraining import PretrainConfig
from train.core.data import read_corpus
from vatt.config import from_dict, load
from vatt.data import Tokenizer, TrainLoader
from vatt.sample import build


@pytest.mark.slow
def test_two_ranks_then_three_then_one(tmp_path):
    """In the middle of an epoch of 16 clips. Equal hashes: the same clips, windows, crops, flips, colours and noise."""
    sample = build(tmp_path / "clips", train=16, val=4, workers=2, say=lambda text: None)
    out = tmp_path / "run"
    small = [*SMALL, "run.batch_size=6"]
    words = ["--config", "paper", "--data", sample, "--model", "vatt-tiny", "--out", out, *small]
    first = True
    for ranks, steps, workers in ((2, 2, 1), (3, 4, 0), (1, 6, 2)):
        command = [*(words if first else ["--out", out, "--resume"]), "--steps", steps, f"data.workers={workers}"]
        run_ranks(ranks, "-m", "tests.train.reading_job", str(tmp_path / f"{ranks}.read"), *map(str, command))
        first = False

    found: dict[int, list] = {}
    for ranks in (2, 3, 1):
        parts = [(tmp_path / f"{ranks}.{rank}").read_text().splitlines() for rank in range(ranks)]
        for lines in zip(*parts, strict=True):  # the same step of all ranks
            records = [json.loads(line) for line in lines]
            assert len({record["step"] for record in records}) == 1
            found[records[0]["step"]] = [clip for record in records for clip in record["clips"]]

    config = from_dict(PretrainConfig, load(out / "config.json"))
    config.data.workers = 0
    loader = TrainLoader(
        read_corpus(config.data, {}, config.model.input).sources,
        Tokenizer.load(out),
        config.model.input,
        config.data,
        batch_size=6,
    )
    whole = [read_of(batch) for batch in islice(iter(loader), 6)]
    assert sorted(found) == list(range(6))
    assert [found[step] for step in range(6)] == whole
    assert len({index for clips in whole for index, _ in clips}) == 16
