"""Windows show the moment that was asked for, to the end, whatever the file: which frame and which burst it must be."""

from __future__ import annotations

import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.media import RATE as SOUND_RATE
from tests.data.media import click_at, write
from tests.data.numbered import CASES, FPS, RATE, SPEC, Whole, bursts, frame_number, moments, picture, write_numbered
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.clips import Clip
from vatt.data.config import AugmentConfig, DataConfig
from vatt.data.decode import (
    MediaError,
    PlaneFrames,
    Wanted,
    decode_picture,
    decode_sound,
    decode_window,
    decode_windows,
    duration_of,
    open_media,
    planes_capacity,
)
from vatt.data.decode.streams import is_cut_off, sound_length
from vatt.data.samples import PretrainReader, Views
from vatt.data.tokenizer import Tokenizer

LONG = InputConfig(frames=32, fps=10, size=96, sample_rate=RATE)  # 3.2 s


def numbers(path: Path, start: float, spec: InputConfig = SPEC) -> tuple[list[int], np.ndarray | None, float]:
    found = decode_window(path, lambda length: min(start, length - spec.seconds), Whole(), spec, HANG)
    return [frame_number(frame) for frame in found.frames_TSS3], found.audio_L, found.start


def due(start: float, count: int, last: int) -> np.ndarray:
    """The numbers of the frames that are shown in a window, of a film whose frames are one after another."""
    return np.minimum(np.floor((start + (np.arange(count) + 0.5) / 10) * FPS), last)


def length(path: Path, kind: str = "video") -> float:
    with open_media(path, kind) as container:
        return duration_of(container, path) if kind == "video" else sound_length(container, path)[0]


@pytest.mark.parametrize(
    ("name", "start", "last"),
    [
        ("seek_gop250.ts", 3.0, 299),
        ("no_duration.webm", 8.0, 299),
        ("sound_longer.mp4", 100.0, 199),
        ("last_frame_held.mp4", 100.0, 99),
        ("cover_first.mp4", 0.8, 99),
        ("stream_appears.flv", 0.0, 74),
    ],
)
def test_cases_show_the_time_that_was_asked_for(name, start, last):
    found, audio_L, start = numbers(CASES / name, start, LONG)
    assert np.abs(np.array(found) - due(start, 32, last)).max() <= 2 if name.endswith(".flv") else 1
    if audio_L is not None:  # bursts each 0.25 s
        at = [place for place, _ in moments(audio_L)]
        assert len(at) >= 11
        assert max(min((start + one) % 0.25, 0.25 - (start + one) % 0.25) for one in at[1:]) < 0.03


FILMS = {
    "x.ts": ("libx264", "aac", {}),
    "b.m2ts": ("libx264", "aac", {"options": {"preset": "ultrafast", "bf": "3", "g": "40"}}),
    "x.mpg": ("mpeg2video", "mp2", {"options": {"g": "40", "bf": "2"}, "form": "mpeg"}),
    "h264.mpg": ("libx264", "mp2", {"form": "mpeg"}),
    "x.h264": ("libx264", None, {"form": "h264"}),
    "x.avi": ("libx264", "mp3", {}),
    "x.mkv": ("libx264", "aac", {}),
    "late.mkv": ("libx264", "aac", {"late": (100.0, 100.0)}),
    "frag.mp4": ("libx264", "aac", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "both_late.mp4": ("libx264", "aac", {"late": (5.0, 5.0)}),
    "x.flv": ("libx264", "aac", {}),
    "pipe.avi": ("mjpeg", "pcm_s16le", {}),
    "x.nut": ("mpeg4", "mp2", {}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, (codec, audio_codec, options) in FILMS.items():
        write_numbered(folder / name, codec, audio_codec, **options)
    content = bytearray((folder / "pipe.avi").read_bytes())
    head = content.index(b"strh") + 8
    content[4:8] = b"\xff" * 4  # what a pipe leaves there: no size, and a length that nobody has counted
    content[content.index(b"avih") + 8 + 16 : content.index(b"avih") + 8 + 20] = b"\0" * 4
    content[head + 32 : head + 36] = struct.pack("<I", 0x40000000)
    (folder / "pipe.avi").write_bytes(content[: content.index(b"idx1")])
    return folder


@pytest.mark.parametrize("name", FILMS)
def test_films_show_the_time_that_was_asked_for(films, name):
    path = films / name
    assert length(path) == pytest.approx(6.0, abs=0.15)
    shift = []
    for start in (0.0, 1.7, 3.1, 100.0):
        found, audio_L, start = numbers(path, start)
        off = np.array(found) - due(start, SPEC.frames, 149)
        assert np.abs(off).max() <= 2, start
        shift += off[np.array(found) < 149].tolist()
        if audio_L is not None:
            places = moments(audio_L)[1:]
            assert len(places) >= 4
            assert max(abs(start + at - k / 4) for at, k in places) < 0.11
    assert max(shift) - min(shift) <= 1  # all windows alike


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_a_palette_that_comes_once_holds_for_all_frames(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("rawvideo", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "pal8"
        for number in range(3 * FPS):
            frame = av.VideoFrame(48, 48, "pal8")
            frame.planes[0].update((picture(number)[:, :, 0] > 100).astype(np.uint8))
            frame.planes[1].update(np.array([0, 0xFFFFFFFF] * 128, np.uint32))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
    for start in (0.0, 1.2):
        found, _, start = numbers(path, start)
        assert np.abs(np.array(found) - due(start, SPEC.frames, 74)).max() <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov", "ts", "flv"])
@pytest.mark.parametrize(("frames", "seconds", "fps"), [(75, 6.0, 25), (150, 3.0, 25), (8, 8.0, 1)])
def test_the_last_window_of_a_good_film_is_there(tmp_path, suffix, frames, seconds, fps):
    sound = "mp3" if suffix == "avi" else "aac"
    options = {"preset": "ultrafast", "bf": "0"}
    path = tmp_path / f"a.{suffix}"
    write_numbered(path, "libx264", sound, frames=range(frames), seconds=seconds, fps=fps, options=options)
    whole = max(frames / fps, seconds)
    step = 1.1 / fps if suffix == "avi" else 0.0  # .avi has an empty frame at its beginning
    assert length(path) == pytest.approx(whole, abs=0.3 + step)
    found, audio_L, start = numbers(path, 100.0)
    assert found[-1] in (frames - 1, frames - 2)
    assert start == pytest.approx(whole - SPEC.seconds, abs=0.3 + step)
    assert audio_L is not None
    assert bool(moments(audio_L)) == (seconds >= whole)
    assert not is_cut_off(path, {"mkv": "matroska", "ts": "mpegts", "flv": "flv", "avi": "avi"}.get(suffix, "mov"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv"])
def test_a_film_that_is_cut_off_is_named(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = write_numbered(tmp_path / f"a.{suffix}", "libx264", "aac", container_options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert numbers(path, 0.0)[0][-1] > 30
    with pytest.raises(MediaError, match=r"video: breaks off at .* s, though the file should last 6\.0"):
        numbers(path, 100.0)


@pytest.mark.parametrize("sound", ["aac", None])
def test_a_film_in_fragments_that_is_cut_off_holds_no_frame(tmp_path, sound):
    """Wherever the cut is: its last window shows the frames that are due, or the film breaks off."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path, coding = tmp_path / "a.mp4", {"preset": "ultrafast", "bf": "0", "g": "25"}
    content = write_numbered(path, "libx264", sound, options=coding, container_options=options).read_bytes()
    outcomes = Counter()
    for size in range(len(content) // 2, len(content), len(content) // 40):
        path.write_bytes(content[:size])
        try:
            found, _, start = numbers(path, 100.0)
        except MediaError as error:
            outcomes[error.reason.partition(" at ")[0]] += 1
        else:
            outcomes["shown"] += 1
            assert np.abs(np.array(found) - due(start, SPEC.frames, 149)).max() <= 2
    assert outcomes["breaks off"] > 1
    assert outcomes["shown"] > 2


def test_sound_that_begins_late_is_silent_before(tmp_path):
    for suffix in ("mp4", "mkv"):
        path = write_numbered(tmp_path / f"a.{suffix}", "mpeg4", "aac", late=(0.0, 4.0), seconds=3.0)
        assert length(path, "audio") == pytest.approx(7.0, abs=0.1)
        for start, silent in ((0.0, True), (100.0, False)):
            sound_L, at = decode_sound(path, lambda d, s=start: min(s, d - SPEC.seconds), SPEC, HANG)
            assert (np.abs(sound_L).max() < 0.01) == silent
            assert all(abs(at + place - 4.0 - k / 4) < 0.08 for place, k in moments(sound_L)[1:])


def two_of_each(path: Path, default: int, cover: bool = False) -> Path:
    """Two films, the first of black and the second of white, and two sounds of 500 and 1,000 Hz."""
    with av.open(str(path), "w") as out:
        kinds = [("mpeg4", 16), ("mpeg4", 235)]
        films = [out.add_stream(codec, rate=10) for codec, _ in kinds]
        tones = [out.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(2)]
        for film in films:
            film.height = film.width = 32
            film.pix_fmt = "yuv420p"
        for pair in (films, tones):
            for number, stream in enumerate(pair):
                marked = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
                if cover and number != default and stream in films:
                    marked = av.stream.Disposition.attached_pic
                stream.disposition = marked.value
        packets = []
        for film, (_, shade) in zip(films, kinds, strict=True):
            for number in range(20):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
                frame.pts = number
                packets += film.encode(frame)
            packets += film.encode(None)
        for tone, pitch in zip(tones, (500, 1000), strict=True):
            sound = (10000 * np.sin(2 * np.pi * pitch * np.arange(16000) / 8000)).astype(np.int16)
            part = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            part.sample_rate, part.pts = 8000, 0
            packets += tone.encode(part)
        for packet in packets:
            out.mux(packet)
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_streams_are_read(tmp_path, default):
    path = two_of_each(tmp_path / "two.mkv", default)
    spec = InputConfig(frames=8, fps=10, size=32, sample_rate=8000)
    found = decode_window(path, lambda _: 0.5, Whole(), spec, HANG)
    assert (found.frames_TSS3.mean() > 128) == bool(default)
    for sound_L in (found.audio_L, decode_sound(path, lambda _: 0.5, spec, HANG)[0]):
        assert np.abs(np.fft.rfft(sound_L)).argmax() * 8000 / len(sound_L) == pytest.approx((500, 1000)[default], abs=5)


def test_the_larger_film_is_read_where_none_is_marked_and_a_sound_without_decoder_is_none(tmp_path):
    path = write(tmp_path / "a.mov", np.full((20, 32, 32, 3), 99, np.uint8), sound=click_at(1, 2), audio_codec="alac")
    path.write_bytes(path.read_bytes().replace(b"alac", b"qqqq"))
    found = decode_window(path, lambda _: 0.0, Whole(), SPEC, HANG)
    assert found.audio_L is None
    with pytest.raises(MediaError, match="audio"):
        decode_sound(path, lambda _: 0.0, SPEC, HANG)


ORIENTATIONS = {  # a, b, c, d of the display matrix, and what becomes of the picture
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: x.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).transpose(1, 0, 2),
}


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    frames = np.full((20, 48, 48, 3), 30, np.uint8)
    frames[:, :12, :24], frames[:, 12:24, :12] = 220, 130
    return write(tmp_path_factory.mktemp("corner") / "a.mp4", frames).read_bytes()


@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("shift", [0, 48])
def test_all_orientations(corner, tmp_path, matrix, shift):
    """As players show it: (x, y) goes to (a x + c y, b x + d y); the shift alone moves nothing."""
    (a, b, c, d), fixed = matrix, struct.Struct(">9i")
    plain = fixed.pack(1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = fixed.pack(a << 16, b << 16, 0, c << 16, d << 16, 0, shift << 16, shift << 16, 1 << 30)
    track = corner.index(plain, corner.index(b"tkhd"))
    path = tmp_path / "a.mp4"
    path.write_bytes(corner)
    upright = decode_window(path, lambda _: 0.0, Whole(), SPEC, HANG).frames_TSS3[0]
    path.write_bytes(corner[:track] + turned + corner[track + len(plain) :])
    found = decode_window(path, lambda _: 0.0, Whole(), SPEC, HANG).frames_TSS3[0]
    np.testing.assert_allclose(found.astype(int), ORIENTATIONS[matrix](upright).astype(int), atol=30)
    names = {
        "planes": ((SPEC.frames, planes_capacity(48)), np.uint8),
        "sizes": ((2,), np.int32),
        "flip": ((), np.uint8),
    }
    names |= {"crop": ((4,), np.float32), "colour": ((3, 4), np.float32)}
    out = {name: np.empty(shape, kind) for name, (shape, kind) in names.items()}
    decode_windows(path, [Wanted(lambda _: 0.0, [PlaneFrames(Whole(), 48, out)])], SPEC, HANG)
    luma = out["planes"][0, : 48 * 48].reshape(48, 48)
    np.testing.assert_allclose(luma, ORIENTATIONS[matrix](upright).mean(-1) * 219 / 255 + 16, atol=30)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_pictures_lie_as_their_exif_says(tmp_path, ending):
    base = np.full((48, 64, 3), 30, np.uint8)
    base[:12, :32], base[12:24, :16] = 220, 130
    for orientation in range(1, 9):
        picture, path = Image.fromarray(base), tmp_path / f"{orientation}.{ending}"
        exif = picture.getexif()
        exif[0x112] = orientation
        picture.save(path, exif=exif, **({"quality": 95} if ending in ("jpg", "webp") else {}))
        expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((48, 48))
        found = decode_picture(path, Whole(), InputConfig(frames=1, size=48))[0]
        assert np.abs(np.asarray(expected).astype(int) - found).mean() < 12, orientation


def test_a_mirrored_film_is_not_turned():
    found = decode_window(CASES / "hflip_matrix.mp4", lambda _: 3.0, Whole(), LONG, HANG).frames_TSS3
    mirrored = np.array([frame_number(frame[:, ::-1]) for frame in found])
    assert np.abs(mirrored - due(3.0, 32, 299)).max() <= 1


def pitch(sound_L: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(sound_L * np.hanning(len(sound_L)))).argmax() * rate / len(sound_L))


def test_rate_and_channels_change_in_the_middle(tmp_path):
    """44.1 and 22.05 kHz; and mono and stereo besides."""
    path = CASES / "rate_changes.mp3"
    assert length(path, "audio") == pytest.approx(4.1, abs=0.1)
    parts = []
    for name, layout, rate in (("a.mp3", "mono", 44100), ("b.mp3", "stereo", 22050)):
        tone = np.sin(2 * np.pi * 600 * np.arange(2 * rate) / rate).astype(np.float32) * 0.4
        sound = tone if layout == "mono" else np.stack([tone, tone])
        part = write(tmp_path / name, None, sound=sound, rate=rate, layout=layout, audio_codec="mp3")
        parts.append(part.read_bytes())
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(parts))
    assert length(joined, "audio") == pytest.approx(4.1, abs=0.2)
    for start in (0.1, 2.4):
        sound_L, _ = decode_sound(joined, lambda _, s=start: s, SPEC, HANG)
        assert pitch(sound_L[: RATE // 2], RATE) == pytest.approx(600, abs=4)
        assert np.abs(sound_L[2000:-4000]).max() == pytest.approx(0.4, abs=0.1)
    for start in (0.6, 1.1, 2.6):  # the pitch of the case rises by 160 Hz a second
        sound_L, _ = decode_sound(path, lambda _, s=start: s, SPEC, HANG)
        assert pitch(sound_L[: RATE // 4], RATE) == pytest.approx(440 + 160 * (start - 0.05), abs=60)


def test_lengths_that_ffmpeg_guesses_are_counted(tmp_path):
    assert length(CASES / "quiet_then_loud.aac", "audio") == pytest.approx(20, abs=0.1)
    assert decode_sound(CASES / "quiet_then_loud.aac", lambda d: d - 1.6, SPEC, HANG)[1] == pytest.approx(18.4, abs=0.1)
    sound = np.concatenate([np.zeros(6 * SOUND_RATE, np.float32), click_at(1, 2) + 0.3 * bursts(2, SOUND_RATE)])
    with av.open(str(tmp_path / "vbr.mp3"), "w", options={"write_xing": "0", "id3v2_version": "0"}) as out:
        stream = out.add_stream("mp3", rate=SOUND_RATE, layout="mono", options={"compression_level": "9"})
        stream.codec_context.options = {"q": "4"}
        for first in range(0, len(sound), 1152):
            part = av.AudioFrame.from_ndarray(sound[None, first : first + 1152], format="fltp", layout="mono")
            part.sample_rate, part.pts = SOUND_RATE, first
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    # 100 frames of 12.2 kbit/s, then 400 of the smallest kind: a length by the bit rate of the first is far too short
    frames = b"\x3c" + bytes(range(31)), b"\x04" + bytes(12)
    (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + frames[0] * 100 + frames[1] * 400)
    for name, seconds in (("vbr.mp3", 8.0), ("a.amr", 10.0)):
        assert length(tmp_path / name, "audio") == pytest.approx(seconds, abs=0.1)
        assert decode_sound(tmp_path / name, lambda d: d - 1.6, SPEC, HANG)[1] == pytest.approx(seconds - 1.6, abs=0.1)


def test_bytes_are_not_counted_in_compressed_wav(tmp_path):
    path = write_numbered(tmp_path / "a.wav", "", "adpcm_ima_wav")
    sound_L, start = decode_sound(path, lambda _: 3.1, SPEC, HANG)
    assert max(abs(start + at - k / 4) for at, k in moments(sound_L)[1:]) < 0.02


@pytest.mark.parametrize(("codec", "value"), [("pcm_f32le", np.nan), ("pcm_f64le", -np.inf), ("pcm_f64le", 1e300)])
def test_numbers_that_are_none_are_named(tmp_path, codec, value):
    sound = np.zeros(3 * 8000)
    sound[9000] = value
    path = tmp_path / "a.wav"
    kind = sound.astype("<f4" if codec == "pcm_f32le" else "<f8").tobytes()
    width = len(kind) // len(sound)
    head = struct.pack("<HHIIHH", 3, 1, 8000, 8000 * width, width, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(kind)) + kind
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(MediaError, match=r"audio: holds values that are not numbers"):
        decode_sound(path, lambda _: 0.5, SPEC, HANG)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = write_numbered(tmp_path_factory.mktemp("clip") / "a.mp4", "mpeg4", "aac")
    return Clip(path, 20.0, 24.0, row="line 7")


def test_a_row_that_starts_behind_the_end_is_a_bad_clip(clip):
    reader = PretrainReader(Tokenizer.train(["a"]), SPEC, DataConfig(augment=AugmentConfig(enabled=False)))
    rng = np.random.default_rng(0)
    message = r"a\.mp4: start: line 7: starts at 20 s, behind the end of the file, which is 6\.0\d s long"
    with pytest.raises(MediaError, match=message):
        reader(clip, rng)
    for modality in ("video", "audio"):
        with pytest.raises(MediaError, match=message):
            Views(2, 1).read(clip, modality, SPEC, HANG)
    assert reader(Clip(clip.video, 5.9, 9.0), rng)["audio_mask"] == 1  # a row that ends behind it is the last window


def test_bad_numbers_are_a_bad_clip_in_training_and_evaluation():
    clip = Clip(CASES / "nan_sound.mov")
    reader = PretrainReader(Tokenizer.train(["a"]), LONG, DataConfig(augment=AugmentConfig(enabled=False)))
    with pytest.raises(MediaError, match=r"nan_sound\.mov: audio: holds values that are not numbers"):
        reader(clip, np.random.default_rng(0))
    with pytest.raises(MediaError, match=r"nan_sound\.mov: audio: holds values that are not numbers"):
        Views(2, 1).read(clip, "audio", LONG, HANG)


@pytest.mark.parametrize("seconds", [-5.0, 36_000.0, 1e13])
def test_a_header_that_claims_what_the_file_cannot_hold_is_not_believed(tmp_path, seconds):
    frames = np.zeros((8, 32, 48, 3), np.uint8)
    content = bytearray(write(tmp_path / "a.mkv", frames, fps=4).read_bytes())
    at = content.index(b"\x44\x89\x88") + 3  # Duration, a double, milliseconds
    content[at : at + 8] = struct.pack(">d", 1000 * seconds)
    (tmp_path / "a.mkv").write_bytes(content)
    with open_media(tmp_path / "a.mkv", "video") as container:
        assert duration_of(container, tmp_path / "a.mkv") == pytest.approx(2.0, abs=0.01)
