"""Whatever reading one clip raises is a bad clip with file and field; what is wrong with the machine is told."""

from __future__ import annotations

import json
import os
import re
import resource
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.data.media import flash_at, write
from vatt.clip import InputConfig
from vatt.data import (
    ClipLoader,
    DataConfig,
    MediaError,
    SkipLog,
    Source,
    Tokenizer,
    TooManySkipped,
    Views,
    eval_batches,
    view_batches,
)
from vatt.data.clips import Clip
from vatt.data.labels import LabelError
from vatt.data.pack.tasks import Fault, ProbeTask, run_task
from vatt.data.reading import Vanished, bad_clip, check_there, one_clip
from vatt.data.samples import PretrainReader
from vatt.data.survey import survey
from vatt.limits import TooFewFiles, check_open_files

SPEC = InputConfig(frames=4, fps=5, size=16, sample_rate=8000, words=5, candidates=1)
TOKENS = Tokenizer.train(["one two three four five six seven eight nine ten"])


@pytest.fixture
def clips(tmp_path):
    """Four clips of a second in a folder of their own, the second of which is told apart by its name."""
    folder = tmp_path / "clips"
    folder.mkdir()
    film = write(folder / "0.mp4", flash_at(0.5, 1, 10, 32, 32)).read_bytes()
    for name in ("odd", "2", "3"):
        (folder / f"{name}.mp4").write_bytes(film)
    return [Clip(folder / f"{name}.mp4") for name in ("0", "odd", "2", "3")]


class Raising(PretrainReader):
    """A reader that raises ``error`` for the odd clip."""

    error: Exception

    def __call__(self, clip, rng, out=None):
        if clip.video.stem == "odd":
            raise self.error
        return super().__call__(clip, rng, out)


def loader(clips, reader=PretrainReader, start=0, workers=0):
    config = DataConfig(workers=workers)
    return ClipLoader([Source("clips", clips)], reader(TOKENS, SPEC, config), config, batch_size=4, start_step=start)


@pytest.mark.parametrize(
    ("error", "field", "reason"),
    [
        (IndexError("tuple index\nout of range"), "decode", r"^IndexError: tuple index out of range \(unexpected, in "),
        (
            RuntimeError("boom"),
            "decode",
            r"^RuntimeError: boom \(unexpected, in tests/data/test_reading\.py, line \d+",
        ),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "decode", "^UnicodeEncodeError: .*surrogates"),
        (LabelError("a label that is none"), "decode", "^a label that is none$"),
        (MemoryError(), "decode", "^takes more memory than "),
        (MediaError("odd.mp4", "audio", "holds NaN"), "audio", "^holds NaN$"),
    ],
)
def test_whatever_a_reader_raises_is_a_bad_clip_and_counts(clips, monkeypatch, error, field, reason):
    monkeypatch.setattr(Raising, "error", error, raising=False)
    batches = list(islice(loader(clips, Raising), 9))
    assert not any(1 in batch["index"].tolist() for batch in batches)
    records = [record for batch in batches for record in batch["skipped"]]
    assert {(Path(record["file"]).name, record["field"]) for record in records} == {("odd.mp4", field)}
    assert all(re.search(reason, record["reason"]) for record in records)
    skips = SkipLog(None, 0.05)
    with pytest.raises(TooManySkipped, match=r"odd\.mp4"):
        skips.add(4 * len(batches), records)


def test_every_reader_of_clips_takes_an_unexpected_error_for_a_bad_clip(clips, monkeypatch, tmp_path):
    """Evaluation, embedding, a survey, checking and packing, of which the last three decode in other processes."""

    def raises(*arguments, **options):
        raise IndexError("list index out of range")

    for where in ("samples.decode_windows", "survey.open_media", "pack.transcode.open_media"):
        monkeypatch.setattr(f"vatt.data.{where}", raises)
    config = DataConfig(workers=0)
    found = [*eval_batches(clips, TOKENS, SPEC, config, batch_size=4)]
    found += view_batches(clips, range(4), Views(1, 1), "video", SPEC, config, batch_size=4)
    reasons = [record["reason"] for batch in found for record in batch["skipped"]]
    assert len(reasons) == 8
    reasons += survey({"clips": clips}, SPEC, workers=1).broken
    assert len(reasons) == 12
    fault = run_task(ProbeTask(clips[0].video, "video", 0, tmp_path))
    assert isinstance(fault, Fault)
    assert all("IndexError: list index out of range" in reason for reason in [*reasons, fault.reason])


def test_a_clip_that_cannot_even_be_found_is_told_by_its_number():
    class Broken(list):
        def __getitem__(self, number):
            raise KeyError("line")

    with pytest.raises(MediaError, match=r"^films, clip 3: decode: KeyError: 'line'"), one_clip(Broken(), 3, "films"):
        pass


def test_data_that_vanish_end_the_job_and_the_same_batches_come_once_they_are_back(clips, tmp_path):
    """In training, evaluation and, by records, embedding: nothing is written down as a bad clip."""
    expected = list(islice(loader(clips), 3))
    folder, away = clips[0].video.parent, tmp_path / "away"
    with closing(loader(clips, workers=1)) as batches:
        assert same(next(iter(batches)), expected[0])
    folder.rename(away)
    for job in (
        lambda: next(iter(loader(clips, start=1))),
        lambda: next(eval_batches(clips, TOKENS, SPEC, DataConfig(workers=0), batch_size=4)),
        lambda: check_there(clips, clips[0].video, "no such file", "clips"),
    ):
        with pytest.raises(Vanished, match=r": its files are not there any more, such as .*\.mp4; is the disk still"):
            job()
    away.rename(folder)
    for batch, other in zip(loader(clips, start=1), expected[1:], strict=False):
        assert same(batch, other)
    clips[1].video.unlink()  # one alone is a bad clip
    records = [record for batch in islice(loader(clips), 9) for record in batch["skipped"]]
    assert {(Path(record["file"]).name, record["reason"]) for record in records} == {("odd.mp4", "no such file")}


def same(one, two):
    return all(torch.equal(x, two[name]) if isinstance(x, torch.Tensor) else x == two[name] for name, x in one.items())


@pytest.fixture
def few_files():
    """No further file can be opened, but for a few."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(more, hard=None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more, hard or before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_told_and_no_clip_blamed(clips, few_files):
    taken = []
    few_files(4)
    try:
        with suppress(OSError):
            while len(taken) < 99:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(TooFewFiles, match=r"0\.mp4|odd\.mp4|2\.mp4|3\.mp4") as told:
            next(iter(loader(clips)))
    finally:
        for file in taken:
            os.close(file)
    assert re.search(r"too many files are open, \d+ are allowed: raise the limit \(ulimit -n \d+\)", str(told.value))
    with pytest.raises(TooFewFiles):
        bad_clip(told.value, "0.mp4")


def test_a_soft_limit_of_open_files_is_raised_and_a_hard_one_told_before_processes_start(few_files, monkeypatch):
    few_files(4)
    check_open_files(8, "data.workers")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= len(os.listdir("/proc/self/fd")) + 16
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))  # only root gets a hard limit back
    with pytest.raises(TooFewFiles, match=r"^64 processes that read files need \d+ open files, and 64 are allowed"):
        check_open_files(64, "data.workers")


def test_a_resumed_run_writes_no_record_twice(tmp_path):
    path = tmp_path / "skipped.jsonl"
    one, two = (
        {"dataset": "films", "file": name, "field": "video", "reason": "is none"} for name in ("1\udcff.mp4", "2.mp4")
    )
    SkipLog(path, 1.0).note([one])
    with path.open("a") as file:
        file.write('{"dataset": "films", "file": "3.m')  # where it was killed
    again = SkipLog(path, 1.0)
    again.note([one, two])
    assert list(again.records.values()) == [one, two]
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in (lines[0], lines[2])] == [one, two]
    assert len(lines) == 3
