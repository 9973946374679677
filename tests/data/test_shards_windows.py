"""The same windows from the files and from their shards: the same moments, sound and captions, pictures within the loss
of the codec."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from tests.data.media import RATE, write
from vatt.clip import InputConfig
from vatt.data import DataConfig, LabelledReader, MediaError, Tokenizer, hold_out, read_clips
from vatt.data.config import AugmentConfig
from vatt.data.decode import decode_sound
from vatt.data.labels import Classes
from vatt.data.pack import PackJob, pack
from vatt.data.samples import PretrainReader, Views, evaluation_windows
from vatt.data.shards.format import Settings
from vatt.data.windows import window_start

pytestmark = pytest.mark.slow

SIDE, SECONDS = 96, 14.0
SPEC = InputConfig(frames=32, fps=10, size=SIDE, sample_rate=RATE, words=8, candidates=3)
SETTINGS = Settings(SIDE, 10.0, 3.2, 4.0, 400_000, RATE, "mpeg4 q=3", "pcm", "mjpeg q=3")
PLAIN = DataConfig(augment=AugmentConfig(enabled=False))
WORDS = "a cat runs over the roof and sleeps in sun dog swims"


def numbered(count: int) -> np.ndarray:
    """Frames that carry their number: 12 cells, 3 rows of 4, white is 1, lowest bit first."""
    frames = np.full((count, SIDE, SIDE, 3), 30, np.uint8)
    for number in range(count):
        for bit in range(12):
            row, column = divmod(bit, 4)
            if number >> bit & 1:
                frames[number, row * 32 : row * 32 + 32, column * 24 : column * 24 + 24] = 220
    return frames


def frame_number(frame_SS3: np.ndarray) -> int:
    """The number of a frame."""
    cells = frame_SS3.reshape(3, 32, 4, 24, 3)[:, 8:24, :, 6:18].mean((1, 3, 4))
    return sum(int(cell > 128) << bit for bit, cell in enumerate(cells.ravel()))


def heard(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """Sound in which every moment differs: a sweep with clicks."""
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.3 * np.sin(2 * np.pi * (100 + 30 * time) * time)
    sound[np.random.default_rng(0).integers(0, len(sound), 400)] += 0.5
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A manifest and its shards."""
    folder = tmp_path_factory.mktemp("films")
    count = round(SECONDS * 25)
    uneven = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.09, count)) * SECONDS / (0.05 * count)
    write(folder / "steady.mp4", numbered(count), fps=25, sound=heard(RATE), gop=50)
    write(folder / "uneven.mkv", numbered(count), times=(uneven - uneven[0]).tolist(), sound=heard(44100), rate=44100)
    write(folder / "late.mp4", numbered(count), fps=25, sound=heard(RATE, 9.0), sound_at=3.37, gop=50)
    write(folder / "silent.mp4", numbered(round(SECONDS * 30)), fps=30)
    write(folder / "short.mp4", numbered(40), fps=20, sound=heard(RATE, 2.0))
    rows = [
        {"video": "steady.mp4", "start": 0.31, "end": 7.7, "caption": "a cat runs", "label": "cat", "fold": "1"},
        {"video": "steady.mp4", "start": 5.02, "end": 9.26, "caption": "over the roof", "label": "cat"},
        {"video": "uneven.mkv", "caption": "the dog swims", "label": "dog"},
        {"video": "steady.mp4", "start": 10.8, "end": 12.0, "caption": "and sleeps", "label": "cat"},
        {"video": "late.mp4", "start": 1.0, "end": 13.0, "caption": "in the sun", "label": "cat"},
        {"video": "silent.mp4", "start": 2.0, "end": 2.5, "label": "dog"},
        {"video": "silent.mp4", "label": "dog"},
        {"video": "short.mp4", "caption": "a dog", "label": "dog"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = pack(PackJob(manifest, folder / "shards", SETTINGS, workers=1))
    assert (result.faults, result.clips) == ([], len(rows))
    return manifest, folder / "shards"


@pytest.fixture(scope="module")
def pairs(places):
    files, shards = (read_clips(place).clips for place in places)
    return list(zip(files, shards, strict=True))


def test_the_clips_are_the_same(places, pairs):
    for file, packed in pairs:
        assert packed.packed is not None
        assert replace(packed, packed=None, video=packed.video.name) == replace(file, video=file.video.name)
    assert max(len(packed.packed.line.pieces) for _, packed in pairs) >= 3
    files, shards = (read_clips(place).clips for place in places)
    for share in (0.3, 0.6):
        sides = zip(hold_out(files, share), hold_out(shards, share), strict=True)
        assert all([c.video.name for c in one] == [c.video.name for c in other] for one, other in sides)


def compare_sound(one_L: np.ndarray, other_L: np.ndarray, apart: float = 0.0005) -> None:
    """So many seconds apart at most, by their correlation, and else alike."""
    size = 2 * len(one_L)
    found = np.fft.irfft(np.fft.rfft(one_L, size) * np.conj(np.fft.rfft(other_L, size)), size)
    lag = int(np.argmax(found)) if np.abs(one_L).max() > 0.05 else 0
    lag -= size if lag > size // 2 else 0
    assert abs(lag) / RATE <= apart
    edge = round(apart * RATE)
    error = np.roll(other_L, lag)[edge:-edge] - one_L[edge:-edge]
    assert np.sqrt(np.mean(error**2)) < 0.01 + 0.1 * np.sqrt(np.mean(one_L**2))


def compare(one, other, name, alike=30.0):
    """Samples of a file and of shards. The sound of a Matroska file lies half a millisecond to either side of where it
    should, depending on where reading begins, since its stamps are whole milliseconds."""
    one_TSS3, other_TSS3 = one["video"].numpy(), other["video"].numpy()
    assert [frame_number(frame) for frame in other_TSS3] == [frame_number(frame) for frame in one_TSS3]
    error = np.mean((one_TSS3.astype(float) - other_TSS3) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > alike
    assert one["audio_mask"] == other["audio_mask"]
    one_L, other_L = one["audio"].numpy(), other["audio"].numpy()
    compare_sound(one_L, other_L, 0.001 if name.endswith(".mkv") else 0.0005)
    assert (one["text"] == other["text"]).all()


@pytest.mark.parametrize("number", range(8))
def test_windows_for_pretraining(pairs, number):
    tokenizer = Tokenizer.train(iter([WORDS]), 100)
    reader = PretrainReader(tokenizer, SPEC, PLAIN)
    file, packed = pairs[number]
    for seed in range(6):
        samples = [reader(clip, np.random.default_rng(seed)) for clip in (file, packed)]
        compare(*samples, file.video.name)


def test_windows_at_the_borders_of_pieces(pairs):
    """Each start on the grid, around each border."""
    reader = PretrainReader(Tokenizer.train(iter([WORDS]), 100), SPEC, PLAIN)
    file, packed = next(pair for pair in pairs if pair[0].video.name == "uneven.mkv")
    duration, names = packed.packed.duration, set()
    last = duration - SPEC.seconds
    for piece in packed.packed.line.pieces:
        for step in (-2, -1, 0, 1):
            place = (piece.begins + step * 0.1) / last
            if 0 <= place <= 1:
                start = window_start(packed, duration, SPEC, place)
                names.add(packed.packed.piece(start, SPEC.seconds).name)
                compare(*(reader(clip, Fixed(place)) for clip in (file, packed)), file.video.name)
    assert len(names) == len(packed.packed.line.pieces) >= 3


class Fixed:
    """In place of a generator: the position of the window."""

    def __init__(self, place: float) -> None:
        self.random = lambda: place
        self.choice = lambda items: items[0]
        self.permutation = np.arange


def test_evaluation_and_labels(pairs):
    tokenizer = Tokenizer.train(iter([WORDS]), 100)
    classes = Classes(("cat", "dog"))
    for file, packed in pairs:
        found = [evaluation_windows(clip, tokenizer, SPEC, PLAIN, 3) for clip in (file, packed)]
        assert found[0][1] == found[1][1]
        for one, other in zip(found[0][0], found[1][0], strict=True):
            compare(one, other, file.video.name)
        views = [Views(2, 1).read(clip, "video", SPEC, 30.0).numpy() for clip in (file, packed)]
        numbers = [[frame_number(frame) for view in both for frame in view] for both in views]
        assert numbers[0] == numbers[1]
        if file.video.name != "silent.mp4":
            reader = LabelledReader(classes, "audio", SPEC, PLAIN)
            one, other = (reader(clip, np.random.default_rng(3)) for clip in (file, packed))
            compare_sound(one["x"].numpy(), other["x"].numpy(), 0.001)
            assert (one["target"] == other["target"]).all()


def test_sound_alone_of_what_has_none(pairs):
    for clip in next(pair for pair in pairs if pair[0].video.name == "silent.mp4"):
        with pytest.raises(MediaError, match=r"silent.mp4: audio: the file has no sound"):
            Views(1, 1).read(clip, "audio", SPEC, 30.0)


@pytest.mark.parametrize("name", ["steady.mp4", "uneven.mkv", "late.mp4"])
def test_sound_of_shards_is_where_it_is_in_the_whole_file(pairs, name):
    """Read from its very beginning, no stamp in the middle of the file matters."""
    file, packed = next(pair for pair in pairs if pair[0].video.name == name)
    whole_L, _ = decode_sound(file.media, lambda duration: 0.0, replace(SPEC, frames=round(SECONDS * 10)))
    compared = 0
    for start in (1.0, 3.9, 4.2, 7.3, 9.5):
        with suppress(MediaError):  # of some videos, parts were packed
            window_L, begins = decode_sound(packed.media, lambda duration, start=start: start, SPEC)
            first = round(begins * RATE)
            compare_sound(whole_L[first : first + len(window_L)], window_L[: len(whole_L) - first])
            compared += 1
    assert compared >= 4
