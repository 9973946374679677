"""Packed clips through the decoder: the window is cut from a piece that begins somewhere in its source."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.media import RATE, write
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.captions import Caption
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_views, decode_window
from vatt.data.labels import Classes
from vatt.data.samples import LabelledReader, PretrainReader, Views, evaluation_windows
from vatt.data.tokenizer import Tokenizer

SPEC = InputConfig(frames=8, fps=10, size=16, sample_rate=8000, words=4)
BEGINS, SECONDS = 10.0, 4.0


@dataclass(frozen=True)
class FakePiece:
    """A part of a file of bytes."""

    path: Path
    first: int
    last: int
    begins: float = BEGINS
    seconds: float = SECONDS
    name: str = "shard-000000.tar: a.mp4"

    def open(self):
        return io.BytesIO(self.path.read_bytes()[self.first : self.last])


@dataclass(frozen=True)
class FakePacked:
    """A source of 20 s of which one piece is there."""

    held: FakePiece
    name: str = "a.mp4"
    duration: float = 20.0
    sound: float | None = 20.0

    def piece(self, start, seconds):
        if not self.held.begins <= start <= start + seconds <= self.held.begins + self.held.seconds + 1e-6:
            raise MediaError(self.name, "range", "no piece holds this window")
        return self.held


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frames that grow brighter and a tone that rises with time."""
    levels = np.linspace(20, 230, round(SECONDS * 10))
    frames = np.repeat(levels.astype(np.uint8), 48 * 64 * 3).reshape(-1, 48, 64, 3)
    time_L = np.arange(round(SECONDS * RATE)) / RATE
    sound = 0.5 * np.sin(2 * np.pi * (200 + 100 * time_L) * time_L)
    return write(tmp_path_factory.mktemp("packed") / "film.mp4", frames, sound=sound, gop=10)


@pytest.fixture(scope="module")
def packed(film):
    """The film in the middle of another file."""
    content, shard = film.read_bytes(), film.with_name("shard.tar")
    shard.write_bytes(b"x" * 1000 + content + b"y" * 1000)
    return FakePacked(FakePiece(shard, 1000, 1000 + len(content)))


@pytest.mark.parametrize("start", [10.0, 11.3, 13.2])
def test_a_window_of_a_piece_is_that_of_its_file(film, packed, start):
    asked = []
    place = lambda duration: asked.append(duration) or start  # noqa: E731
    wanted = decode_window(film, lambda _: start - BEGINS, CentreView(), SPEC, HANG)
    found = decode_window(packed, place, CentreView(), SPEC, HANG)
    assert asked == [20.0]  # the duration of the source
    assert found.start == start
    np.testing.assert_array_equal(found.frames_TSS3, wanted.frames_TSS3)
    np.testing.assert_array_equal(found.audio_L, wanted.audio_L)
    sound, begins = decode_sound(packed, lambda _: start, SPEC, HANG)
    assert begins == start
    np.testing.assert_array_equal(sound, wanted.audio_L)
    (view,) = decode_views(packed, lambda _: start, [CentreView()], SPEC, HANG)
    np.testing.assert_array_equal(view, wanted.frames_TSS3)


def test_faults_name_the_piece(packed):
    short = replace(packed, held=replace(packed.held, last=5000))
    for decode in (decode_window, decode_views):
        view = CentreView() if decode is decode_window else [CentreView()]
        with pytest.raises(MediaError, match=r"^shard-000000.tar: a.mp4: container: cannot be decoded"):
            decode(short, lambda _: 11.0, view, SPEC, HANG)
    with pytest.raises(MediaError, match="took more than") as caught:
        decode_window(packed, lambda _: 11.0, CentreView(), SPEC, 1e-9)
    assert caught.value.file == packed.held.name
    with pytest.raises(MediaError, match="no piece holds this window"):
        decode_window(packed, lambda _: 19.0, CentreView(), SPEC, HANG)


def test_a_packed_picture(packed, film):
    wanted = decode_picture(film, CentreView(), SPEC)
    held = replace(packed, held=replace(packed.held, begins=0.0))
    np.testing.assert_array_equal(decode_picture(held, CentreView(), SPEC), wanted)


@pytest.fixture
def clip(packed):
    return Clip(Path("gone/a.mp4"), 10.5, 13.5, (Caption("a light grows", 11.0, 12.0),), "a", packed=packed)


def test_readers_take_the_packed_copy_and_fill_what_they_are_given(clip, film):
    """``video`` of a packed clip only names its source, which may be gone."""
    config, tokenizer = DataConfig(decode_timeout=HANG), Tokenizer.train(["a light grows"])
    readers = [PretrainReader(tokenizer, SPEC, config)]
    readers += [LabelledReader(Classes(("a", "b")), kind, SPEC, config) for kind in ("video", "audio")]
    for reader in readers:
        sample = reader(clip, np.random.default_rng(3))
        layout = reader.layout()
        assert {name: (tuple(x.shape), x.dtype) for name, x in sample.items()} == layout
        outs = [{name: torch.full(shape, 7, dtype=dtype) for name, (shape, dtype) in layout.items()} for _ in range(2)]
        places = {name: x.data_ptr() for name, x in outs[0].items()}
        again = reader(clip, np.random.default_rng(3), outs[0])
        assert again is outs[0]
        assert {name: x.data_ptr() for name, x in again.items()} == places
        both = reader.windows(clip, [np.random.default_rng(3), np.random.default_rng(4)], outs)
        other = reader(clip, np.random.default_rng(4))
        for name in layout:  # what AAC replaces by noise depends on what its decoder has read before
            torch.testing.assert_close(both[0][name], sample[name], rtol=0, atol=1e-3)
            torch.testing.assert_close(both[1][name], other[name], rtol=0, atol=1e-3)
        assert not all(torch.equal(sample[name], other[name]) for name in layout)
    (window,), query = evaluation_windows(clip, tokenizer, SPEC, config, 1)
    assert query == "a light grows"
    assert window["video"].shape == (8, 16, 16, 3)
    assert Views(2, 3).read(clip, "video", SPEC, HANG).shape == (6, 8, 16, 16, 3)


def test_a_silent_film_gives_silence_in_a_used_sample(tmp_path):
    path = write(tmp_path / "mute.mp4", np.zeros((20, 16, 16, 3), np.uint8))
    reader = PretrainReader(Tokenizer.train(["a"]), SPEC, DataConfig(decode_timeout=HANG))
    used = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in reader.layout().items()}
    sample = reader(Clip(path), np.random.default_rng(0), used)
    assert not sample["audio"].any()
    assert not sample["text"].any()
    assert (sample["audio_mask"].item(), sample["text_mask"].item()) == (0, 0)
