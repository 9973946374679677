"""Samples of clips: windows of videos, sounds and pictures, their views, and batches of those with labels."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.data.media import RATE, click_at, flash_at, write
from tests.limits import HANG
from vatt.clip import SILENCE, InputConfig
from vatt.data import (
    AugmentConfig,
    Classes,
    ClipLoader,
    DataConfig,
    LabelledReader,
    ManifestError,
    MediaError,
    Source,
    Tokenizer,
    Views,
    is_silent,
    read_clips,
    sound_digest,
    view_batches,
)
from vatt.data.augment import CentreView, SquareView
from vatt.data.clips import Clip
from vatt.data.decode import decode_picture, decode_sound, decode_views, decode_window
from vatt.data.samples import PretrainReader, evaluation_windows
from vatt.data.windows import window_start

SPEC = InputConfig(frames=4, fps=4, size=16, sample_rate=8000)


def test_windows_lie_where_they_may():
    def starts(clip, duration, *places, fps=2.0):  # windows of 3 s
        return [window_start(clip, duration, InputConfig(frames=round(3 * fps), fps=fps), place) for place in places]

    free = Clip(None)
    assert starts(free, 10.0, 0.0, 0.5, 1.0) == [0.0, 3.5, 7.0]
    assert starts(free, 2.0, 0.7) == [0.0]
    ranged = Clip(None, start=4.0, end=9.0)
    assert starts(ranged, 20.0, 0.0, 1.0) == [4.0, 6.0]
    narrow = Clip(None, start=4.0, end=5.0)  # shorter than the window: the window covers it
    assert starts(narrow, 20.0, 0.0, 1.0) == [2.0, 4.0]
    assert starts(Clip(None, start=18.0, end=30.0), 20.0, 1.0) == [17.0]


def test_windows_begin_on_the_grid_of_the_frame_rate():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        fps, frames = rng.choice([4.0, 10.0, 25.0, 29.97]), int(rng.integers(1, 40))
        spec, duration = InputConfig(frames=frames, fps=fps), rng.uniform(0.5, 30)
        begin = rng.uniform(0, duration)
        clip = Clip(None, start=begin, end=rng.uniform(begin, 30)) if rng.random() < 0.7 else Clip(None)
        start = window_start(clip, duration, spec, rng.random())
        assert abs(start * fps - round(start * fps)) < 1e-6
        last = max(0.0, duration - spec.seconds)
        low, high = sorted(((clip.start or 0.0), min(clip.end or duration, duration) - spec.seconds))
        low, high = min(max(low, 0.0), last), min(max(high, 0.0), last)
        beyond = max(low - start, start - high, 0.0) * fps
        assert beyond <= 0.5 + 1e-6
        if high - low >= 1 / fps:
            assert beyond < 1e-5
        assert start >= 0
    # A range of the length of the window that begins between two points of the grid begins at the nearer one.
    assert window_start(Clip(None, 1.23, 4.43), 10.0, InputConfig(), 0.5) == 1.2


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write(folder / "wide.mp4", flash_at(1, 2, 10, 32, 64), sound=click_at(1.0, 2.0))
    write(folder / "tone.wav", None, sound=click_at(1.0, 2.0), audio_codec="pcm_s16le")
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, 15:] = 255
    with av.open(str(folder / "half.png"), "w") as out:
        stream = out.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 20, 30, "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    (folder / "m.csv").write_text("video,audio,image,label\nwide.mp4,,,a\n,tone.wav,,b\n,,half.png,a\n,,gone.png,a\n")
    return folder


def test_a_manifest_names_sound_files_and_pictures(media):
    found = read_clips(media / "m.csv")
    assert [(c.video.name, c.kind, c.label) for c in found.clips] == [
        ("wide.mp4", "video", "a"),
        ("tone.wav", "audio", "b"),
        ("half.png", "image", "a"),
    ]
    assert [(r["field"], r["file"].endswith("gone.png")) for r in found.skipped] == [("image", True)]
    (media / "two.csv").write_text("video,audio\nwide.mp4,tone.wav\n")
    with pytest.raises(ManifestError, match="line 2, column video, audio: only one may be filled"):
        read_clips(media / "two.csv")


def test_sound_of_a_file_and_of_a_video(media):
    for name in ("tone.wav", "wide.mp4"):
        sound, start = decode_sound(media / name, lambda duration: 0.5, SPEC)
        assert start == 0.5
        assert sound.shape == (8000,)
        loud = np.abs(sound).argmax() / 8000
        assert abs(loud - 0.5) < 0.05  # the click at 1 s
    past, _ = decode_sound(media / "tone.wav", lambda duration: 1.5, SPEC)
    assert not past[4000:].any()
    with pytest.raises(MediaError, match="has no sound"):
        decode_sound(media / "half.png", lambda duration: 0.0, SPEC)
    data = (media / "tone.wav").read_bytes()
    cut = media / "cut.bin"
    cut.write_bytes(data[:30])
    with pytest.raises(MediaError, match=r"cut.bin: container: cannot be decoded"):
        decode_sound(cut, lambda duration: 0.0, SPEC)


def test_sound_that_ends_before_the_picture(tmp_path):
    """As many cameras write it. In .mkv, the length of the sound is not known before it has been read."""
    sound = click_at(1.0, 2.0)
    for name in ("a.mp4", "a.mkv"):
        path = write(tmp_path / name, flash_at(0.5, 4.0, 10), sound=sound)
        for place in (0.0, 1.0):
            heard, start = decode_sound(path, lambda duration, p=place: p * max(0.0, duration - 1.0), SPEC)
            assert heard.shape == (8000,)
            assert start + 1.0 <= (2.2 if name == "a.mp4" else 4.1)
    name = tmp_path / "12:30 talk.mp4"
    (tmp_path / "a.mp4").rename(name)
    assert decode_sound(Path(os.path.relpath(name)), lambda duration: 0.0, SPEC)[0].any()


def test_a_picture_is_a_clip_in_which_nothing_moves(media):
    frames = decode_picture(media / "half.png", CentreView(), SPEC)
    assert frames.shape == (4, 16, 16, 3)
    assert frames[0, :, :6].max() < 30
    assert frames[0, :, 10:].min() > 225
    assert (frames == frames[:1]).all()
    with pytest.raises(MediaError, match="no such file"):
        decode_picture(media / "gone.png", CentreView(), SPEC)


def test_views_are_spread_over_time_and_side(media):
    wide, tone, half = read_clips(media / "m.csv").clips
    x = Views(2, 3).read(wide, "video", SPEC, HANG)
    assert x.shape == (6, 4, 16, 16, 3)
    dark = [bool(view.float().mean() < 60) for view in x]
    assert dark == [True] * 3 + [False] * 3  # the flash comes after the first window of a second
    window = decode_window(wide.video, lambda duration: 0.5, SquareView(1.0), SPEC)
    seen = decode_views(wide.video, lambda duration: 0.5, [SquareView(0.0), SquareView(1.0)], SPEC)
    assert np.array_equal(seen[1], window.frames_TSS3)
    left, middle, right = Views(1, 3).read(half, "video", SPEC, HANG).float().mean((1, 2, 3, 4)).tolist()
    assert left < middle < right
    assert Views(3, 3).read(tone, "audio", SPEC, HANG).shape == (3, 8000)
    assert Views(3, 3).count("audio") == 3
    with pytest.raises(MediaError, match="is a sound file, which has no picture"):
        Views().read(tone, "video", SPEC, HANG)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_training_and_evaluation(media, workers):
    clips = [c for c in read_clips(media / "m.csv").clips if c.kind != "audio"]
    config = DataConfig(workers=workers, decode_timeout=HANG)
    reader = LabelledReader(Classes(("a", "b")), "video", SPEC, config)
    loader = ClipLoader([Source("m", clips)], reader, config, batch_size=3, seed=1)
    batch = next(iter(loader))
    loader.close()
    assert batch["x"].shape == (3, 4, 16, 16, 3)
    assert batch["x"].dtype == torch.uint8
    assert batch["target"].tolist() == [[1, 0]] * 3
    bad = Clip(media / "cut.mp4", label="a")
    bad.video.write_bytes(b"no film")
    found = list(view_batches([*clips, bad], [0, 2, 1], Views(2, 1), "video", SPEC, config, batch_size=2))
    assert [b["index"].tolist() for b in found] == [[0], [1]]
    assert [len(b.get("x", [])) for b in found] == [2, 1]  # all windows of a picture are one
    assert [b["of_view"].tolist() for b in found] == [[[0, 1]], [[0, 0]]]
    (record,) = found[0]["skipped"]
    assert record["index"] == 2
    assert record["file"].endswith("cut.mp4")


@pytest.mark.parametrize("quiet", [0.0, 6e-5])
def test_silence_is_no_sound(tmp_path, quiet):
    """Of a whole window, before noise is added; what a sound card gives without a microphone is silence, too."""
    sound = quiet * np.sign(np.sin(np.arange(4 * RATE)))
    sound[2 * RATE :] += click_at(1.0, 2.0)
    film = write(tmp_path / "a.mov", flash_at(1, 4, 10), sound=sound, audio_codec="pcm_s16le")
    config = DataConfig(augment=AugmentConfig(audio_noise=0.1))
    tokenizer = Tokenizer.train(["a word"])
    reader = PretrainReader(tokenizer, SPEC, config)
    silent, heard = (reader(Clip(film, start, start + 1.0), np.random.default_rng(0)) for start in (0.5, 2.5))
    assert (silent["audio_mask"], silent["audio"].any()) == (0, False)
    assert heard["audio_mask"] == 1
    assert heard["audio"].abs().max() > 0.5
    samples, _ = evaluation_windows(Clip(film), tokenizer, SPEC, config, 2)
    assert [float(sample["audio_mask"]) for sample in samples] == [0.0, 1.0]
    labelled = LabelledReader(Classes(("a",)), "audio", SPEC, DataConfig())  # silence may have a label
    assert labelled(Clip(film, 0.5, 1.5, label="a"), np.random.default_rng(0))["target"] == 1


def test_what_is_silent():
    for peak, silent in ((0.0, True), (SILENCE, True), (1.1 * SILENCE, False)):
        for sign in (1, -1):
            sound = np.zeros(100, np.float32)
            sound[3] = np.float32(sign * peak)
            assert is_silent(sound) == silent
    one, other = np.ones(9, np.float32), np.zeros(9, np.float32)
    assert sound_digest(one) == sound_digest(one.copy()) != sound_digest(other)
