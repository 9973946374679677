"""Sound of a window: the mean of its channels, at one rate, where its times say."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.media import flash_at, write
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import (
    MediaError,
    RgbFrames,
    Wanted,
    decode_sound,
    decode_sounds,
    decode_window,
    decode_windows,
)

CODECS = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}


def spec_of(rate):
    return InputConfig(frames=10, fps=10, size=16, sample_rate=rate)


def tone(length, rate, level=0.5):
    return level * np.sin(2 * np.pi * 440 * np.arange(round(length * rate)) / rate)


def clicks(places, length, rate):
    """One sample of full level at each place, in seconds."""
    sound = np.zeros(round(length * rate), np.float32)
    sound[[round(place * rate) for place in places]] = 0.9
    return sound


def level(sound_L):
    """Of a tone, from its middle part."""
    return float(np.sqrt(2 * np.mean(np.square(sound_L[len(sound_L) // 4 : -len(sound_L) // 4]))))


def wave(path, sound, rate, kind="s16", layout="mono"):
    """A sound file of (channels, L)."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(CODECS[kind], rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(format=kind, layout=layout, rate=rate)
        for part in resampler.resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("layout", "used", "wanted"), [
    ("mono", 1, 0.5), ("stereo", 2, 0.5), ("stereo", 1, 0.25), ("5.1", 6, 0.5), ("5.1", 3, 0.25)
])  # fmt: skip
@pytest.mark.parametrize("rate", [48000, 44100])
def test_channels_are_averaged(tmp_path, layout, used, wanted, rate):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    sound = np.zeros((channels, 2 * rate))
    sound[:used] = tone(2, rate)
    film = write(tmp_path / "a.mp4", flash_at(1, 2, 10), sound=sound, rate=rate, layout=layout)
    heard = decode_window(film, lambda _: 0.5, CentreView(), spec_of(48000), HANG).audio_L
    # The subwoofer of AAC has little above 120 Hz.
    assert level(heard) == pytest.approx(wanted * (5 / 6 if used == 6 else 1), abs=0.03)
    heard, _ = decode_sound(wave(tmp_path / "a.wav", sound, rate, layout=layout), lambda _: 0.5, spec_of(48000), HANG)
    assert level(heard) == pytest.approx(wanted, abs=2e-3)


def test_a_loud_sound_on_two_channels_is_not_clipped(tmp_path):
    """FFmpeg's own mixing sums 0.707 of each channel: 3 dB too loud, and 42% of these samples at full scale."""
    sound = np.stack([tone(2, 48000, 0.9)] * 2)
    path = wave(tmp_path / "a.wav", sound, 48000, layout="stereo")
    film = write(tmp_path / "a.mov", flash_at(1, 2, 10), sound=sound, layout="stereo", audio_codec="pcm_s16le")
    for heard in (
        decode_sound(path, lambda _: 0.5, spec_of(48000), HANG)[0],
        decode_window(film, lambda _: 0.5, CentreView(), spec_of(48000), HANG).audio_L,
    ):
        assert np.abs(heard).max() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("kind", CODECS)
def test_all_sample_formats_have_the_same_level(tmp_path, kind):
    sound = np.stack([tone(2, 8000), 0.5 * tone(2, 8000)])
    path = wave(tmp_path / "a.wav", sound, 8000, kind, "stereo")
    heard, _ = decode_sound(path, lambda _: 0.5, spec_of(8000), HANG)
    np.testing.assert_allclose(heard, sound.mean(0)[4000:12000], atol=1e-2 if kind == "u8" else 1e-4)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("wanted", [16000, 48000])
@pytest.mark.parametrize("name", ["a.wav", "a.mov", "a.mkv"])
def test_sound_lies_where_it_belongs(tmp_path, rate, wanted, name):
    """To half a millisecond."""
    places = [0.5, 1.0, 1.25, 1.75]
    sound = clicks(places, 3.0, rate)
    pictures = None if name == "a.wav" else flash_at(1, 3, 10)
    path = write(tmp_path / name, pictures, sound=sound, rate=rate, audio_codec="pcm_s16le")
    for start in (0.0, 0.3, 0.9, 1.1):
        heard, _ = decode_sound(path, lambda _, s=start: s, spec_of(wanted), HANG)
        for place in places:
            if start + 0.01 < place < start + 0.95:
                near = round((place - start) * wanted)
                part = np.abs(heard[near - wanted // 100 : near + wanted // 100])
                assert abs(int(part.argmax()) - wanted // 100) / wanted < 5e-4


def test_a_gap_stays_a_gap(tmp_path):
    path, rate = tmp_path / "gap.mkv", 8000
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        for first in (0, 1, 3, 4):  # of one second each; the third is missing
            frame = av.AudioFrame.from_ndarray((clicks([0.5], 1.0, rate) * 2**15).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), first * rate
            out.mux(stream.encode(frame))
    for wanted in (8000, 16000):
        spec = InputConfig(frames=30, fps=10, sample_rate=wanted)
        heard, _ = decode_sound(path, lambda _: 1.2, spec, HANG)
        found = np.flatnonzero(np.abs(heard) > 0.3)
        seconds = sorted({round(place / wanted, 3) for place in found})
        assert all(min(abs(second - place) for place in (0.3, 2.3)) < 1e-3 for second in seconds)
        assert {round(second) for second in seconds} == {0, 2}


@pytest.mark.parametrize("first", ["picture", "sound"])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_sound_that_lies_far_from_its_picture_in_the_file(tmp_path, first, name):
    """The whole picture is written before the sound, or after it."""
    path, rate, length = tmp_path / name, 8000, 6.0
    with av.open(str(path), "w", container_options={"max_interleave_delta": "1"}) as out:
        video = out.add_stream("libx264", rate=10)
        video.height = video.width = 32
        audio = out.add_stream("pcm_s16le" if name.endswith("mkv") else "aac", rate=rate, layout="mono")

        def picture():
            for number, frame in enumerate(flash_at(3, length, 10, 32, 32)):
                shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
                shown.pts, shown.time_base = number, Fraction(1, 10)
                out.mux(video.encode(shown))
            out.mux(video.encode(None))

        def sound():
            samples = (clicks([3.5], length, rate) * 2**15).astype(np.int16)
            for number in range(0, len(samples), 800):
                frame = av.AudioFrame.from_ndarray(samples[None, number : number + 800], "s16", "mono")
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), number
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))

        for part in (picture, sound) if first == "picture" else (sound, picture):
            part()
    window = decode_window(path, lambda _: 2.8, CentreView(), spec_of(8000), HANG)
    assert abs(int(np.abs(window.audio_L).argmax()) / 8000 - 0.7) < (0.01 if name.endswith("mp4") else 5e-4)
    assert window.frames_TSS3.mean((1, 2, 3)).argmax() >= 2


def test_a_window_at_the_beginning_after_a_later_one(tmp_path):
    """AAC has a packet before time 0, without which the first 12 ms are lost."""
    path = write(tmp_path / "a.mp4", flash_at(1, 6, 10), fps=10, sound=tone(6, 48000), rate=48000)
    spec = spec_of(48000)
    alone, _ = decode_sound(path, lambda _: 0.0, spec, HANG)
    assert level(alone[:1000]) > 0.45
    later, film, sound = np.empty((3, spec.samples), np.float32)
    frames_TSS3 = np.empty((10, 16, 16, 3), np.uint8)
    decode_sounds(path, [lambda _: 3.0, lambda _: 0.0], [later, sound], spec, HANG)
    wanted = [
        Wanted(lambda _, s=start: s, [RgbFrames(CentreView(), frames_TSS3)], out)
        for start, out in ((3.0, later), (0.0, film))
    ]
    decode_windows(path, wanted, spec, HANG)
    for found in (film, sound):
        np.testing.assert_allclose(found, alone, atol=1e-3)


def test_values_that_are_no_numbers_are_a_named_fault(tmp_path):
    sound = tone(2, 8000).astype(np.float32)
    sound[9000:9010] = np.nan
    path = tmp_path / "nan.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        out.mux(stream.encode(frame))
    assert decode_sound(path, lambda _: 0.0, spec_of(8000), HANG)[0].any()
    with pytest.raises(MediaError, match=r"nan.wav: audio: holds values that are not numbers"):
        decode_sound(path, lambda _: 0.5, spec_of(8000), HANG)
