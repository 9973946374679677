"""Windows of a clip that begin at the same time are decoded and computed once, and count as often as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from tests.data.media import RATE, write
from tests.inference.library_models import lively, small_config
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data import Clip, DataConfig, Tokenizer, Views, eval_batches, view_batches
from vatt.data.decode import audio, video
from vatt.data.samples import evaluation_windows
from vatt.data.windows import window_start
from vatt.evaluation.retrieval import embed
from vatt.inference import embed_clips
from vatt.models import VATT

SPEC = InputConfig(frames=8, fps=8.0, size=16, sample_rate=8000)  # windows of a second
TOKENS = Tokenizer.train(["a film of some seconds"], 100)
CONFIG = DataConfig(workers=0, decode_timeout=HANG)


def film(path, seconds, silent=(0.0, 0.0)):
    """Pictures that change, and noise but for a time of silence."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (round(seconds * 16), 32, 32, 3), dtype=np.uint8)
    sound = generator.uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)
    sound[round(silent[0] * RATE) : round(silent[1] * RATE)] = 0
    return Clip(write(path, frames, fps=16, sound=sound, audio_codec="pcm_s16le"))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """As long as a window, a little longer (less than a step of the grid, and two steps), and three windows long."""
    folder = tmp_path_factory.mktemp("films")
    return [film(folder / f"{number}.mkv", seconds) for number, seconds in enumerate((1.0, 1.0625, 1.25, 3.0))]


@pytest.fixture
def decoded(monkeypatch):
    """The times at which windows are decoded."""
    times = {"video": [], "audio": []}
    read_window, sound_read = video.read_window, audio.Sound.read
    monkeypatch.setattr(
        video, "read_window", lambda opened, *more: (times["video"].append(opened.start), read_window(opened, *more))
    )
    monkeypatch.setattr(audio.Sound, "read", lambda self: (times["audio"].append(self.opened.start), sound_read(self)))
    return times


def starts(clip, windows=4):
    seconds = {"0": 1.0, "1": 1.0625, "2": 1.25, "3": 3.0}[clip.video.stem]
    return [window_start(clip, seconds, SPEC, number / (windows - 1)) for number in range(windows)]


def test_each_time_is_decoded_once(films, decoded):
    assert [len(set(starts(clip))) for clip in films] == [1, 1, 3, 4]
    list(eval_batches(films, TOKENS, SPEC, CONFIG, batch_size=2, windows=4))
    assert decoded["video"] == [time for clip in films for time in dict.fromkeys(starts(clip))]
    decoded["video"].clear()
    list(view_batches(films, range(4), Views(4, 3), "video", SPEC, CONFIG, batch_size=2))
    assert decoded["video"] == [time for clip in films for time in dict.fromkeys(starts(clip))]
    decoded["audio"].clear()
    list(view_batches(films, range(4), Views(4, 1), "audio", SPEC, CONFIG, batch_size=2))
    assert decoded["audio"] == [time for clip in films for time in dict.fromkeys(starts(clip))]


def test_rows_of_a_batch_are_the_windows_of_before(films, tmp_path):
    bad = Clip(tmp_path / "gone.mp4")
    some = [films[0], bad, *films[1:]]
    (batch,) = eval_batches(some, TOKENS, SPEC, CONFIG, batch_size=8, windows=4)
    assert len(batch["video"]) == len(batch["audio"]) == 1 + 1 + 3 + 4
    assert batch["index"].tolist() == [0, 2, 3, 4]
    assert batch["of_window"].tolist() == [[0] * 4, [1] * 4, [2, 3, 3, 4], [5, 6, 7, 8]]
    assert batch["audio_mask"].tolist() == [[1] * 4] * 4
    for clip, rows in zip(films, batch["of_window"], strict=True):
        samples, _ = evaluation_windows(clip, TOKENS, SPEC, CONFIG, 4)
        for name in ("video", "audio"):
            assert torch.equal(batch[name][rows], torch.stack([sample[name] for sample in samples]))
        apart = [
            Views(1, 1).read(replace(clip, start=time, end=time + 1), "video", SPEC, HANG) for time in starts(clip)
        ]
        assert torch.equal(batch["video"][rows], torch.cat(apart))
    (views,) = view_batches(some, range(5), Views(4, 2), "video", SPEC, CONFIG, batch_size=8)
    assert len(views["x"]) == 2 * len(batch["video"])
    for clip, rows in zip(films, views["of_view"], strict=True):
        assert torch.equal(views["x"][rows], Views(4, 2).read(clip, "video", SPEC, HANG))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lively(VATT(small_config())).double().eval()  # float64: batches of other sizes add up alike


@torch.no_grad()
def test_embeddings_are_those_of_all_windows(model, tmp_path):
    spec = model.config.input
    clips = [film(tmp_path / f"{number}.mkv", seconds) for number, seconds in enumerate((1.9, 2.4, 4.0))]
    found = embed(model, eval_batches(clips, TOKENS, spec, CONFIG, batch_size=3, windows=4))
    for number, clip in enumerate(clips):
        views = {name: Views(4, 1).read(clip, name, spec, HANG) for name in ("video", "audio")}
        out = {name: x.float() for name, x in model(**views).items()}
        for name in ("video/totxt", "video/toaud", "audio/tovid"):
            assert_close(found.spaces[name][number], out[name].mean(0))
        for name, mean in found.unit_means.items():
            assert_close(mean[number], F.normalize(out[name], dim=1).mean(0))
    for modality, name in (("video", "video/totxt"), ("audio", "audio/tovid")):
        (batch,) = embed_clips(model, clips, modality, windows=4, config=CONFIG)
        assert_close(batch.x_BD, F.normalize(found.spaces[name], dim=1))


@torch.no_grad()
def test_silent_windows_do_not_count_and_silent_clips_do_not_ask(model, tmp_path):
    spec = model.config.input
    half = film(tmp_path / "half.mkv", 5.0, silent=(0.0, 3.2))
    none = film(tmp_path / "none.mkv", 1.5, silent=(0.0, 1.5))
    copy = Clip(Path(tmp_path / "copy.mkv"))
    copy.video.write_bytes(half.video.read_bytes())
    (batch,) = eval_batches([half, none, copy], TOKENS, spec, CONFIG, batch_size=3, windows=4)
    heard = batch["audio_mask"][0].bool()
    assert heard.tolist() == [False, False, True, True]
    assert not batch["audio_mask"][1].any()
    assert batch["sounds"][0] == batch["sounds"][2] != b""
    assert batch["sounds"][1] == b""
    found = embed(model, [batch])
    assert found.has_audio_N.tolist() == [True, False, True]
    out = model(audio=Views(4, 1).read(half, "audio", spec, HANG))["audio/tovid"].float()
    assert_close(found.spaces["audio/tovid"][0], out[heard].mean(0))
    (embedded,) = embed_clips(model, [half, none], "audio", windows=4, config=CONFIG)
    assert_close(embedded.x_BD[0], F.normalize(out[heard].mean(0), dim=0))
    assert (embedded.numbers, len(embedded.x_BD)) == ([0], 1)
    assert [(record["field"], record["reason"]) for record in embedded.skipped] == [("audio", "is silent")]
