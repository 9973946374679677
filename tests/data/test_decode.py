"""Decoding windows of real files: timing, sound, size, rotation, and files that are broken."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.media import RATE, click_at, flash_at, rotate, write
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import Box, MediaError, decode_window

SPEC = InputConfig(frames=16, fps=10, size=32, sample_rate=RATE)  # 1.6 s


def decode(path, start=0.0, spec=SPEC, view=None, timeout=HANG):
    return decode_window(Path(path), lambda duration: start, view or CentreView(), spec, timeout)


class Whole(CentreView):
    """The whole picture; remembers the sizes that it was asked for."""

    def __init__(self):
        self.sizes = []

    def box(self, height, width):
        self.sizes.append((height, width))
        return Box(0, 0, height, width)


def flash_of(window, spec=SPEC):
    """When the picture turns white and when the sound sets in, in seconds from the start of the window."""
    bright = window.frames_TSS3.mean((1, 2, 3)) > 120
    loud = np.abs(window.audio_L) > 0.2
    return np.argmax(bright) / spec.fps, np.argmax(loud) / spec.sample_rate


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("start", [0.0, 0.7, 1.35])
def test_picture_and_sound_stay_together(tmp_path, suffix, start):
    """A flash and a click at 2.0 s are found where they belong, to a frame and 5 ms, wherever the window begins."""
    path = write(tmp_path / f"a.{suffix}", flash_at(2.0, 4.0, 25), fps=25, sound=click_at(2.0, 4.0))
    window = decode(path, start + 0.6)
    flash, click = flash_of(window)
    assert abs(flash - (2.0 - start - 0.6)) <= 1 / SPEC.fps
    assert abs(click - (2.0 - start - 0.6)) <= 0.005
    assert window.frames_TSS3.shape == (16, 32, 32, 3)
    assert window.frames_TSS3.dtype == np.uint8
    assert (window.audio_L.shape, window.audio_L.dtype) == ((SPEC.samples,), np.float32)


def test_variable_frame_rate(tmp_path):
    """Each moment shows the last frame that was due: frames of 1 s, then many short ones."""
    times = [0.0, 1.0, 1.05, 1.1, 1.15, 1.2, 3.0]
    frames = np.stack([np.full((64, 64, 3), 20 + 30 * i, np.uint8) for i in range(len(times))])
    window = decode(write(tmp_path / "v.mp4", frames, times, fps=30), 0.5)
    level = window.frames_TSS3.mean((1, 2, 3))
    shown = [max(i for i, t in enumerate(times) if t <= 0.5 + (k + 0.5) / 10) for k in range(16)]
    np.testing.assert_allclose(level, [20 + 30 * i for i in shown], atol=6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_metadata(tmp_path, turns):
    """The file is turned as its display matrix says, and the crop is chosen in the turned picture."""
    frames = np.full((20, 64, 96, 3), 30, np.uint8)
    frames[:, :32, :48, 0] = 220  # red in the upper left quarter
    path = write(tmp_path / "r.mp4", frames)
    upright = decode(path, view=Whole()).frames_TSS3[0]
    view = Whole()
    turned = decode(rotate(path, turns), view=view).frames_TSS3[0]
    assert view.sizes == [(96, 64) if turns % 2 else (64, 96)]
    np.testing.assert_allclose(turned, np.rot90(upright, -turns), atol=30)  # the matrix turns clockwise
    assert np.abs(turned.astype(int) - upright).mean() > 10


@pytest.mark.parametrize(("height", "width"), [(67, 101), (2, 2), (480, 16)])
def test_odd_sizes(tmp_path, height, width):
    frames = np.full((20, height, width, 3), 90, np.uint8)
    window = decode(write(tmp_path / "o.mkv", frames, codec="ffv1" if height == 2 else "libx264"))
    np.testing.assert_allclose(window.frames_TSS3, 90, atol=6)


@pytest.mark.parametrize(("rate", "layout", "channels"), [(8000, "mono", 1), (44100, "stereo", 2), (48000, "5.1", 6)])
def test_sound_is_mixed_and_resampled(tmp_path, rate, layout, channels):
    length = 3.0
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(length * rate)) / rate)
    planes = np.zeros((channels, len(tone)), np.float32)
    planes[: min(channels, 3)] = tone  # left, right and centre
    window = decode(write(tmp_path / "s.mp4", flash_at(1, length, 10), sound=planes, rate=rate, layout=layout), 0.5)
    spectrum = np.abs(np.fft.rfft(window.audio_L * np.hanning(len(window.audio_L))))
    assert abs(np.argmax(spectrum) * SPEC.sample_rate / len(window.audio_L) - 440) < 2
    assert 0.2 < np.abs(window.audio_L).max() <= 1.0


def test_missing_sound_and_short_sound(tmp_path):
    assert decode(write(tmp_path / "silent.mp4", flash_at(1, 3, 10))).audio_L is None
    window = decode(write(tmp_path / "short.mp4", flash_at(1, 4, 10), sound=np.ones(RATE // 2, np.float32) * 0.5))
    assert np.abs(window.audio_L[RATE // 2 + 3000 :]).max() == 0
    assert np.abs(window.audio_L[2000 : RATE // 2 - 2000]).min() > 0.2


def test_a_file_that_is_shorter_than_the_window_holds_its_last_frame(tmp_path):
    window = decode(write(tmp_path / "s.mp4", flash_at(0.5, 0.8, 10), sound=click_at(0.3, 0.8)))
    assert (window.frames_TSS3[7:].mean((1, 2, 3)) > 180).all()
    assert np.abs(window.audio_L[RATE:]).max() < 1e-3


def broken(tmp_path, kind):
    path = write(tmp_path / f"{kind}.mp4", flash_at(1, 4, 10), sound=click_at(1, 4))
    content = path.read_bytes()
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3)).astype(np.uint8)
        content = write(path, noise, sound=click_at(1, 4)).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video")
    elif kind == "missing":
        path.unlink()
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "audio_only":
        write(path, None, sound=click_at(1, 4))
    elif kind == "subsecond":
        write(path, flash_at(0.1, 0.3, 10))
    return path


REASONS = {
    "truncated": ("container", "cannot be decoded"),
    "empty": ("container", "cannot be decoded"),
    "text": ("container", "cannot be decoded"),
    "missing": ("video", "no such file"),
    "fifo": ("video", "not a regular file"),
    "folder": ("video", "not a regular file"),
    "audio_only": ("video", "no video stream"),
    "subsecond": ("duration", "at least 0.5 s"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_broken_files_are_named(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(MediaError) as caught:
        decode(path)
    field, reason = REASONS[kind]
    assert caught.value.file == str(path)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert str(path) in str(caught.value)


def test_a_stream_that_breaks_off_is_refused_only_where_it_is_missing(tmp_path):
    """A .mkv cut in half still opens: windows in its first part are good, later ones are an error."""
    path = write(tmp_path / "half.mkv", np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert decode(path, 0.2).frames_TSS3.std() > 1
    with pytest.raises(MediaError, match=r"breaks off at|no frame could be decoded"):
        decode(path, 4.0)


def test_flipped_bits_give_a_clip_or_a_named_error(tmp_path):
    path = write(tmp_path / "bits.mp4", flash_at(1, 4, 10), sound=click_at(1, 4))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(25):
        damaged = content.copy()
        places = rng.integers(0, len(content), 40)
        damaged[places] ^= rng.integers(1, 255, 40).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        outcomes.add(_clip_or_error(path))
    assert outcomes <= {"clip", str(path)}
    assert outcomes


def _clip_or_error(path):
    """ "clip", or the file that the error names."""
    try:
        return "clip" if decode(path, 0.5).frames_TSS3.shape == (16, 32, 32, 3) else "another shape"
    except MediaError as error:
        return error.file


def test_time_limit(tmp_path):
    path = write(tmp_path / "slow.mp4", flash_at(1, 4, 10))
    with pytest.raises(MediaError, match=r"slow\.mp4: decode: took more than"):
        decode(path, 2.0, timeout=1e-9)
