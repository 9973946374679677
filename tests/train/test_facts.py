"""What a recipe is chosen by: clips of named splits, the speed of the cores, and one survey for all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.data.media import flash_at, write
from train.auto.facts import gather_facts, named_splits, product_rate
from train.core import ranks
from vatt.clip import InputConfig
from vatt.data import Clip


def clips(*splits):
    return [Clip(Path(f"{number}.mp4"), split=split) for number, split in enumerate(splits)]


def test_clips_of_named_splits():
    named = clips("train", None, "val", "test", "test")
    assert named_splits({"a": named}, "val") == (2, 1)
    assert named_splits({"a": named}, "test") == (2, 2)
    assert named_splits({"a": named, "b": clips("train", "test")}, "val") == (3, 2)  # test where there is no val
    assert named_splits({"a": named, "b": clips(None, None)}, "val") is None


def test_the_speed_of_the_cores_is_measured_and_their_number_kept():
    before = torch.get_num_threads()
    assert 1e8 < product_rate(1) < 1e13
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("timed", [True, False])
def test_facts_of_this_machine(tmp_path, monkeypatch, timed):
    monkeypatch.setattr("train.auto.facts.gather", lambda own: [own])
    write(tmp_path / "a.mp4", flash_at(0, 2, 10))
    context = ranks.RankContext(0, 1, torch.device("cpu"))
    data = {"films": [Clip(tmp_path / "a.mp4")]}
    found = gather_facts(context, data, InputConfig(), "val", timed)
    assert (found.data, found.ranks, found.device, found.device_name) == (("films",), 1, "cpu", "CPU")
    assert (found.survey.clips, found.survey.broken, found.survey.with_sound) == (1, (), 0)
    assert found.cores == context.cores
    assert found.memory == found.host > 1 << 20
    assert (found.product > 0) == timed
    assert not found.on_gpu
