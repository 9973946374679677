"""The loader: a pure function of its position, shared out over ranks, mixed at given weights, robust to bad files."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.media import RATE, write
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data import (
    AugmentConfig,
    ClipLoader,
    DataConfig,
    MediaError,
    SkipLog,
    Source,
    Tokenizer,
    TooManySkipped,
    TrainLoader,
    Views,
    eval_batches,
    evaluation_loader,
    slots,
    view_batches,
)
from vatt.data.captions import Caption
from vatt.data.clips import Clip
from vatt.data.loader import BatchError, NoUsableClip, Schedule
from vatt.data.samples import PretrainReader

SPEC = InputConfig(frames=4, fps=5, size=16, sample_rate=8000, words=5, candidates=3)
TOKENS = Tokenizer.train(["one two three four five six seven eight nine ten"])


WORDS = ["one", "two", "three", "four", "five"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for number in range(8):
        frames = rng.integers(0, 255, (15, 32, 48, 3)).astype(np.uint8)
        sound = rng.uniform(-0.5, 0.5, 8000 * 2).astype(np.float32) if number % 4 else None
        video = write(folder / f"{number}.mp4", frames, sound=sound, rate=8000)
        narration = tuple(Caption(w, i * 0.3, i * 0.3 + 0.3) for i, w in enumerate(WORDS))
        made.append(Clip(video, captions=narration if number % 2 else ()))
    return made


def load(clips, steps, *, sources=None, workers=0, windows=1, **options):
    config = DataConfig(workers=workers, prefetch=2, decode_timeout=HANG, windows_per_open=windows)
    sources = sources or [Source("clips", clips)]
    loader = TrainLoader(sources, TOKENS, SPEC, config, **{"batch_size": 4, "seed": 3, **options})
    batches = list(islice(iter(loader), steps))
    loader.close()
    return batches


def same(one, two):
    tensors = [key for key, value in one.items() if isinstance(value, torch.Tensor)]
    return all(torch.equal(one[key], two[key]) for key in tensors) and one["skipped"] == two["skipped"]


def test_batch_layout(clips):
    batch = load(clips, 1)[0]
    assert (batch["video"].shape, batch["video"].dtype) == ((4, 4, 16, 16, 3), torch.uint8)
    assert (batch["audio"].shape, batch["audio"].dtype) == ((4, SPEC.samples), torch.float32)
    assert (batch["text"].shape, batch["text"].dtype) == ((4, 3, 5), torch.int64)
    number = batch["index"]
    assert torch.equal(batch["audio_mask"], (number % 4 > 0).float())
    assert torch.equal(batch["text_mask"], (number % 2 > 0).float())
    assert (batch["audio"][batch["audio_mask"] == 0] == 0).all()
    assert (batch["text"][batch["text_mask"] == 0] == 0).all()
    assert (batch["text"][batch["text_mask"] == 1] != 0).any((1, 2)).all()


def test_position_is_the_step_in_any_number_of_workers(clips):
    whole = load(clips, 6)
    for start, workers in ((0, 2), (3, 0), (4, 2)):
        again = load(clips, 6 - start, start_step=start, workers=workers)
        assert all(same(*pair) for pair in zip(whole[start:], again, strict=True))
    assert not same(whole[0], load(clips, 1, seed=4)[0])


def test_ranks_share_one_global_batch(clips):
    whole = load(clips, 3)
    parts = [load(clips, 3, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for key in ("video", "audio", "text", "index"):
            assert torch.equal(batch[key], torch.cat([part[step][key] for part in parts]))
    seen = torch.cat([batch["index"] for batch in whole[:2]])
    assert sorted(seen.tolist()) == list(range(8))  # one pass takes each clip once


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_are_the_batch_in_order_and_lie_in_memory_together(clips, workers, monkeypatch):
    """As many as a step has may be held at once, without a copy, beside those that are read ahead."""
    whole = load(clips, 2)
    monkeypatch.setattr(slots, "_SMALL", 0)
    config = DataConfig(workers=workers, prefetch=1, decode_timeout=HANG)
    with closing(TrainLoader([Source("clips", clips)], TOKENS, SPEC, config, batch_size=4, seed=3, parts=4)) as loader:
        parts = iter(loader)
        for batch in whole:
            held = [next(parts) for _ in range(4)]
            for key in ("video", "audio", "text", "index"):
                assert torch.equal(torch.cat([part[key] for part in held]), batch[key])
            if workers:
                assert loader._pool._slots.held == 4
            del held
        one = loader._plan.batch_bytes
        assert loader.memory == (4 * one if not workers else 5 * one + 2 * slots.PROCESS)
    for number, windows in ((3, 1), (2, 4)):
        with pytest.raises(BatchError, match=f"{number} parts"):
            load(clips, 1, parts=number, windows=windows)


def test_ranks_may_change_in_the_middle_of_an_epoch(clips):
    """Two of them, then three, then one: clips, windows, crops and colours of each step are those of one all along."""
    whole = load(clips, 6, batch_size=6)
    for start, ranks in ((0, 2), (2, 3), (4, 1)):
        options = dict(batch_size=6 // ranks, world_size=ranks, start_step=start, workers=ranks - 1)
        parts = [load(clips, 2, rank=rank, **options) for rank in range(ranks)]
        for step in range(2):
            for key in ("index", "video", "audio", "text"):
                joined = torch.cat([part[step][key] for part in parts])
                assert torch.equal(joined, whole[start + step][key]), (key, start + step)


@pytest.mark.parametrize("ranks", [1, 2])
def test_several_windows_of_an_opened_clip(clips, monkeypatch, ranks):
    opened = []
    windows = PretrainReader.windows

    def counted(self, clip, *arguments):
        opened.append(clip)
        return windows(self, clip, *arguments)

    monkeypatch.setattr(PretrainReader, "windows", counted)
    options = dict(windows=3, batch_size=12 // ranks, world_size=ranks)
    found = [load(clips, 2, rank=rank, **options) for rank in range(ranks)]
    assert len(opened) == 2 * 12 // 3
    again = [load(clips, 1, rank=rank, start_step=1, workers=2, **options) for rank in range(ranks)]
    for step in range(2):
        index = torch.cat([part[step]["index"] for part in found])
        assert index.view(-1, 3).eq(index[::3, None]).all()
        assert len(set(index.tolist())) == 4
    assert all(same(part[1], other[0]) for part, other in zip(found, again, strict=True))
    one, two, three = found[0][0]["video"][:3]
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    firsts = torch.cat([part[0]["video"][::3] for part in found])
    assert torch.equal(firsts, load(clips, 1, batch_size=4)[0]["video"])
    with pytest.raises(BatchError, match=r"data\.windows_per_open: 3 windows .* do not divide the 4 clips"):
        load(clips, 1, windows=3)


class Deadly(PretrainReader):
    """Dies of clip number 2, unless it is ``mild``: then that one cannot be read."""

    mild = False

    def __call__(self, clip, rng, out=None):
        if clip.video.name != "2.mp4":
            return super().__call__(clip, rng, out)
        if self.mild:
            raise MediaError(clip.video, "decode", "mild")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_clip_that_kills_is_skipped_like_one_that_cannot_be_read(clips, workers):
    config = DataConfig(workers=workers, prefetch=2, decode_timeout=HANG)

    def batches(mild, start=0):
        reader = Deadly(TOKENS, SPEC, config)
        object.__setattr__(reader, "mild", mild)
        options = dict(batch_size=4, seed=3, start_step=start)
        loader = ClipLoader(
            [Source("clips", clips)], reader, replace(config, workers=0 if mild else workers), **options
        )
        found = list(islice(iter(loader), 6 - start))
        loader.close()
        return found

    killed, expected = batches(False), batches(True)
    records = [record for batch in killed for record in batch["skipped"]]
    mild = [record for batch in expected for record in batch["skipped"]]
    assert len(records) == len(mild) >= 3
    for record, other in zip(records, mild, strict=True):
        reason = record.pop("reason")
        assert reason.startswith("the process that read it was ended by SIGKILL")
        assert record == {name: value for name, value in other.items() if name != "reason"}
        assert (record["dataset"], record["field"], Path(record["file"]).name) == ("clips", "decode", "2.mp4")
    for one, two in zip([*killed, *batches(False, start=4)], [*expected, *expected[4:]], strict=True):  # after a resume
        assert same({**one, "skipped": []}, {**two, "skipped": []})


def test_no_clip_that_does_not_kill(clips):
    config = DataConfig(workers=1, prefetch=1)
    loader = ClipLoader([Source("clips", clips[2:3])], Deadly(TOKENS, SPEC, config), config, batch_size=2)
    with closing(loader), pytest.raises(NoUsableClip, match=r"clips: 20 clips in a row .*2\.mp4 \(decode: the process"):
        next(iter(loader))


def junk(folder):
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes(b"not a video" * 50)
    return [Clip(folder / f"{number}.mp4") for number in range(3)]


def test_a_data_set_without_a_good_clip_ends_from_a_process_too(tmp_path):
    with pytest.raises(NoUsableClip, match=r"junk: 20 clips in a row .*\.mp4 \(container: cannot be decoded: "):
        load([], 1, sources=[Source("junk", junk(tmp_path))], workers=2)


def test_evaluation_tells_of_a_clip_that_kills(clips, monkeypatch):
    views = Views.read_into

    def read(self, clip, *arguments):
        return os.abort() if clip.video.name == "1.mp4" else views(self, clip, *arguments)

    monkeypatch.setattr(Views, "read_into", read)
    monkeypatch.setattr(os, "abort", lambda: os.kill(os.getpid(), signal.SIGKILL))
    config = DataConfig(workers=2, decode_timeout=HANG)
    (batch,) = view_batches(clips, [0, 1, 2], Views(1, 1), "video", SPEC, config, batch_size=4)
    assert batch["index"].tolist() == [0, 2]
    (record,) = batch["skipped"]
    assert (record["field"], record["index"]) == ("decode", 1)
    assert "SIGKILL" in record["reason"]


def test_evaluation_reads_by_itself_where_memory_is_short(clips, monkeypatch, caplog):
    monkeypatch.setattr(evaluation_loader, "free_memory", lambda: 1000)
    config = DataConfig(workers=2, decode_timeout=HANG)
    found = list(view_batches(clips, [0, 1, 2], Views(1, 1), "video", SPEC, config, batch_size=2))
    assert [batch["index"].tolist() for batch in found] == [[0, 1], [2]]
    assert "this evaluation reads clips in the process itself" in caplog.text


def test_mixing_is_exact_and_even():
    schedule = Schedule([5, 7, 2], [3.0, 1.0, 0.5], seed=0)
    sources = [schedule.pick(number).source for number in range(4500)]
    assert np.bincount(sources).tolist() == pytest.approx([3000, 1000, 500], abs=2)
    assert np.bincount(sources[:45]).tolist() == pytest.approx([30, 10, 5], abs=1)
    later = Schedule([5, 7, 2], [3.0, 1.0, 0.5], seed=0)
    assert later.pick(4321) == schedule.pick(4321)
    first = [p.item for p in map(schedule.pick, range(4500)) if p.source == 1]
    assert all(sorted(first[i : i + 7]) == list(range(7)) for i in range(0, 700, 7))


def test_bad_clips_are_replaced_and_recorded(clips, tmp_path):
    broken = Clip(tmp_path / "broken.mp4")
    broken.video.write_bytes(b"nothing")
    batches = load([broken, *clips], 6)
    again = load([broken, *clips], 3, start_step=3, workers=2)
    assert all(same(*pair) for pair in zip(batches[3:], again, strict=True))
    records = [record for batch in batches for record in batch["skipped"]]
    assert records
    assert {(r["dataset"], r["file"], r["field"]) for r in records} == {("clips", str(broken.video), "container")}
    assert all((batch["index"] != 0).all() for batch in batches)


def test_a_data_set_without_a_good_clip_ends_with_its_files(tmp_path):
    with pytest.raises(NoUsableClip, match=r"junk: 20 clips in a row .*\.mp4 \(container: cannot be decoded: "):
        load([], 1, sources=[Source("junk", junk(tmp_path))])
    with pytest.raises(ValueError, match="none: the data set has no clip"):
        load([], 1, sources=[Source("none", [])])


def test_clips_that_fail_slowly_are_given_up_sooner(clips):
    """Twenty clips of a server that stalls would take ten minutes."""

    class Slow(PretrainReader):
        def __call__(self, clip, rng, out=None):
            time.sleep(0.05)
            raise MediaError(clip.video, "decode", "took more than 0.02 s")

    config = DataConfig(workers=0, decode_timeout=0.02)
    loader = ClipLoader([Source("clips", clips)], Slow(TOKENS, SPEC, config), config, batch_size=2)
    with pytest.raises(NoUsableClip, match="clips: 5 clips in a row could not be read"):
        next(iter(loader))


def test_evaluation_takes_each_clip_once(clips, tmp_path):
    bad = Clip(tmp_path / "bad.mp4")
    some = [*clips[:3], bad, *clips[3:]]
    for workers in (0, 2):
        config = DataConfig(workers=workers, decode_timeout=HANG)
        batches = list(eval_batches(some, TOKENS, SPEC, config, batch_size=3, windows=2))
        assert torch.cat([b["index"] for b in batches]).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
        assert [r["file"] for b in batches for r in b["skipped"]] == [str(bad.video)]
        assert [b["video"].shape[0] for b in batches] == [6, 4, 6]
        assert batches[0]["captions"] == ["", "one", ""]
        assert batches[0]["text"].shape == (3, 1, 5)


def test_skip_log(tmp_path):
    log = SkipLog(tmp_path / "skipped.jsonl", 0.2)
    record = {"dataset": "d", "file": "a.mp4", "field": "video", "reason": "cut short 🎬"}
    log.add(30, [record, record])
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1
    assert "a.mp4 (video: cut short" in log.summary()
    with pytest.raises(TooManySkipped, match=r"12 of 42 clips .*max_bad_share = 0\.2 allows.*a\.mp4"):
        log.add(0, [{**record, "file": f"{n}.mp4"} for n in range(10)])


def test_augmentation_keeps_bytes_and_range(clips):
    for audio_noise in (0.0, 0.5):
        config = DataConfig(workers=0, augment=AugmentConfig(audio_noise=audio_noise))
        loader = TrainLoader([Source("c", clips[1:2])], TOKENS, SPEC, config, batch_size=8)
        batch = next(iter(loader))
        assert batch["audio"].abs().max() <= 1
        assert len({clip.numpy().tobytes() for clip in batch["video"]}) == 8
    assert RATE == 48000
