"""What a run trains and evaluates on, and what the evaluation tasks take: by the split."""

from __future__ import annotations

import argparse

import pytest
import torch

from train.core.data import read_corpus
from train.core.ranks import RankContext
from train.evaluation.task import clips_of, share_of
from vatt.clip import InputConfig
from vatt.data import DataConfig, ManifestError
from vatt.data.splits import SHARE


@pytest.fixture
def manifest(tmp_path):
    """Makes a manifest of a clip in each of the splits that are named."""

    def make(name, *splits):
        for number in range(len(splits)):
            (tmp_path / f"{number}.mp4").write_bytes(b"x")
        rows = [f"{number}.mp4,{split}" for number, split in enumerate(splits)]
        (tmp_path / name).write_text("\n".join(["video,split", *rows]))
        return str(tmp_path / name)

    return make


def corpus(*sources, **options):
    return read_corpus(DataConfig(sources=list(sources), workers=0, **options), {}, InputConfig())


def test_a_run_evaluates_on_one_split_and_says_so(manifest):
    both = manifest("a.csv", "train", "val", "test", "test", "extra")
    found = corpus(both)
    assert [clip.split for clip in found.evaluation_clips()] == ["val"]
    assert [clip.split for clip in found.training_clips()] == ["train"]
    told = f"clips of {both}: train 1, val 1, test 2; 1 in other splits: extra 1; evaluated: val"
    assert found.splits == [told]
    assert found.notes[0].startswith(f"{both}: 1 clips are in splits that are not used: extra (1)")
    assert [clip.split for clip in corpus(both, eval_split="test").evaluation_clips()] == ["test", "test"]
    assert [clip.split for clip in corpus(both, eval_split="Extra").evaluation_clips()] == ["extra"]


def test_a_data_set_that_is_named_twice_is_evaluated_once(manifest):
    both = manifest("a.csv", "train", "val", "val")
    found = corpus(both, both, weights=[1.0, 2.0])
    assert (len(list(found.training_clips())), len(found.evaluation_clips()), len(found.splits)) == (2, 2, 1)


def test_test_stands_in_where_there_is_no_val(manifest):
    only = manifest("a.csv", "train", "test")
    found = corpus(only)
    assert [clip.split for clip in found.evaluation_clips()] == ["test"]
    assert found.splits[0].endswith("evaluated: test, for there is no val")


def test_a_split_that_no_data_set_has_is_refused(manifest):
    first, second = manifest("a.csv", "train", "val"), manifest("b.csv", "train", "test")
    with pytest.raises(ManifestError, match=r"data.eval_split=dev: .*a.csv, column split: no clip of 'dev'; there are"):
        corpus(first, second, eval_split="dev")
    assert [clip.split for clip in corpus(first, second, eval_split="test").evaluation_clips()] == ["test"]
    assert corpus(manifest("c.csv", "train", "x")).evaluation_clips() == []  # a run may go without


def test_a_split_of_data_that_name_none_is_refused(manifest):
    plain = manifest("a.csv", *[""] * 40)
    for name in ("test", "tset"):
        with pytest.raises(ManifestError, match=rf"data.eval_split={name}: .*no clip of '{name}'; there are"):
            corpus(plain, eval_split=name)
    assert len(corpus(plain, eval_share=0.5).evaluation_clips()) > 8


def test_a_task_holds_out_what_the_run_of_its_model_held_out(manifest, tmp_path):
    plain, context = manifest("a.csv", *[""] * 40), RankContext(0, 1, torch.device("cpu"))
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text('{"name": "vatt-tiny"}')
    (tmp_path / "run" / "config.json").write_text('{"data": {"eval_share": 0.5}}')
    wanted = corpus(plain, eval_share=0.5).evaluation_clips()

    def taken(model, share=None):
        options = argparse.Namespace(data=plain, split=None, eval_share=share, model=model)
        return list(clips_of(context, options)[0])

    assert taken(tmp_path / "run") == taken(tmp_path / "run" / "model") == wanted
    assert len(taken(tmp_path / "run", 0.2)) < len(wanted)
    assert share_of(argparse.Namespace(eval_share=None, model=tmp_path)) == SHARE  # of no run


def test_tasks_take_the_split_that_is_asked_for(manifest, capsys):
    context = RankContext(0, 1, torch.device("cpu"))

    def chosen(path, split=None, share=0.5):
        clips, name, _ = clips_of(context, argparse.Namespace(data=path, split=split, eval_share=share))
        return name, len(clips)

    both = manifest("a.csv", "train", "valid", "test", "test")
    assert chosen(both) == ("val", 1)
    assert "train 1, val 1, test 2; evaluated: val" in capsys.readouterr().out
    assert chosen(both, "validation") == ("val", 1)
    assert chosen(both, "TEST") == ("test", 2)
    assert chosen(both, "all") == ("all", 4)
    assert chosen(manifest("b.csv", "test", "test", "train")) == ("test", 2)
    plain = manifest("c.csv", *[""] * 40)
    assert chosen(plain)[0] == "val"
    assert 8 < chosen(plain)[1] < 32
    assert chosen(plain, "train")[1] + chosen(plain, "val")[1] == 40
    for path, split in ((both, "dev"), (manifest("d.csv", "train"), None)):
        with pytest.raises(ManifestError, match=r"column split: no clip of '(dev|val)'; there are"):
            chosen(path, split)
