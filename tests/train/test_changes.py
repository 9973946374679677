"""What differs where a run goes on: told with both values, and refused where it changes what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.config.pretraining import PretrainConfig
from train.core import changes
from train.core.changes import check_data_of_run, check_settings_of_run, check_steps, digest
from train.core.command import Job
from train.core.data import Corpus
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from vatt.config import ConfigError, override, to_dict
from vatt.data import Clip, Source
from vatt.data.captions import Caption, Narration

CONTEXT = RankContext(0, 1, torch.device("cpu"))


class Told(list):
    say = list.append

    def warn(self, line):
        self.append(f"warning: {line}")


def job(folder, *overrides, allow=False):
    before = PretrainConfig()
    now = override(PretrainConfig(), list(overrides))
    return Job(now, folder, resume=True, sample=False, began=to_dict(before), allow_changes=allow)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("data.workers=7", "data.workers: 2 then, 7 now"),
        ("run.log_every=3", "run.log_every: 50 then, 3 now"),
        ("engine.zero=2", "engine.zero: 0 then, 2 now"),
        ("run.steps=600000", "run.steps: 500000 then, 600000 now, and the learning rate follows"),
        ("evaluation.max_clips=5", "evaluation.max_clips: "),
    ],
)
def test_what_changes_nothing_that_is_learned_is_told(tmp_path, setting, line):
    told = Told()
    check_settings_of_run(job(tmp_path, setting), told)
    assert len(told) == 1
    assert told[0].startswith(f"goes on with {line}")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("run.batch_size=64", "run.batch_size: 2048 then, 64 now"),
        ("run.seed=1", "run.seed: 0 then, 1 now"),
        ("optim.lr=1e-3", "optim.lr: 0.0001 then, 0.001 now"),
        ('data.sources=["b"]', "data.sources: "),
        ("data.vocabulary=b.txt", "data.vocabulary: None then, 'b.txt' now"),
        ("data.augment.flip=false", "data.augment.flip: True then, False now"),
        ("model.loss.vid_aud_weight=2", "model.loss.vid_aud_weight: 1.0 then, 2.0 now"),
        ("engine.precision=bf16", "engine.precision: 'auto' then, 'bf16' now"),
    ],
)
def test_what_changes_the_run_is_refused_or_allowed(tmp_path, setting, line):
    told = Told()
    with pytest.raises(ConfigError) as refused:
        check_settings_of_run(job(tmp_path, setting), told)
    assert line in str(refused.value)
    assert "--allow-changes" in str(refused.value)
    check_settings_of_run(job(tmp_path, setting, allow=True), told)
    assert len(told) == 1
    assert told[0].startswith(f"warning: goes on with {line}")


def test_fewer_steps_than_are_done(tmp_path):
    check_steps(job(tmp_path, "run.steps=10"), 10)
    with pytest.raises(ConfigError, match=r"^run.steps: 10, but the newest checkpoint is of step 11"):
        check_steps(job(tmp_path, "run.steps=10"), 11)
    check_steps(job(tmp_path, "run.steps=10", allow=True), 11)


CLIPS = [Clip(Path(f"/a/{n}.mp4"), captions=(Caption(f"says {n}", 0.0, 2.0),), name=f"{n}.mp4") for n in range(4)]


def test_a_digest_is_of_what_a_data_set_says_and_not_of_where_it_is():
    assert digest([replace(clip, video=Path("/b") / clip.video.name) for clip in CLIPS]) == digest(CLIPS)
    other = [
        CLIPS[:3],
        CLIPS[::-1],
        [replace(CLIPS[0], start=1.0), *CLIPS[1:]],
        [replace(CLIPS[0], label="cat"), *CLIPS[1:]],
        [replace(CLIPS[0], extra={"motion": "up"}), *CLIPS[1:]],
        [replace(CLIPS[0], captions=(Caption("says else", 0.0, 2.0),)), *CLIPS[1:]],
        [replace(CLIPS[0], name="d.mp4"), *CLIPS[1:]],
        [replace(clip, captions=Narration(clip.captions[:0])) for clip in CLIPS],
    ]
    found = [digest(clips) for clips in other]
    assert len({*found, digest(CLIPS)}) == len(other) + 1


def corpus(clips, name="a.csv"):
    return Corpus([Source(name, clips)], {name: clips[:1]})


def test_other_clips_and_words_are_refused_and_a_data_set_may_move(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "gather", lambda item: [item])
    folder, told = RunFolder(tmp_path), Told()
    words = tmp_path / "tokenizer.json"
    words.write_text("{}")
    going_on = job(tmp_path)
    check_data_of_run(going_on, CONTEXT, folder, told, corpus(CLIPS[:3]))  # of an earlier version: nothing to compare
    check_data_of_run(replace(going_on, resume=False), CONTEXT, folder, told, corpus(CLIPS))
    check_data_of_run(going_on, CONTEXT, folder, told, corpus(CLIPS, "moved/a.csv"))
    check_settings_of_run(job(tmp_path, 'data.sources=["moved/a.csv"]'), told)
    assert told == ["goes on with data.sources: [] then, ['moved/a.csv'] now"]
    with pytest.raises(ConfigError, match=r"a.csv: 4 clips to train on then \(digest \w+\), 3 now \(\w+\)"):
        check_data_of_run(going_on, CONTEXT, folder, told, corpus(CLIPS[:3]))
    words.write_text('{"other": 1}')
    with pytest.raises(ConfigError, match=r"tokenizer.json: digest \w+ then, \w+ now"):
        check_data_of_run(going_on, CONTEXT, folder, told, corpus(CLIPS))
    check_data_of_run(job(tmp_path, allow=True), CONTEXT, folder, told, corpus(CLIPS[:2]))
    assert len(told) == 3
    check_data_of_run(going_on, CONTEXT, folder, told, corpus(CLIPS[:2]))  # what was allowed is what the run has now
