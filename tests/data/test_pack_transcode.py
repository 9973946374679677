"""Pieces: the same windows from the source and from its piece; one rule for frame times, sound in place, colours."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.media import RATE, click_at, flash_at, rotate, write
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_window
from vatt.data.pack.transcode import probe, transcode
from vatt.data.shards.format import Settings

SETTINGS = Settings(256, 10.0, 3.2, 60.0, 10**8, RATE, "mpeg4 q=2", "pcm", "mjpeg q=2")
SPEC = InputConfig(size=64)
HALF_A_MILLISECOND = RATE // 2000


class Whole:
    """A packed clip that is one piece, of frames [first, first + frames) of the source."""

    def __init__(self, path: Path, kind: str, first: int, frames: int, settings: Settings = SETTINGS) -> None:
        self.content = transcode(path, kind, first, frames, settings, 60).content
        found = probe(path, kind)
        self.name, self.duration, self.sound = "piece", found.duration, found.sound
        self.begins, self.seconds = first / settings.fps, frames / settings.fps

    def piece(self, start: float, seconds: float) -> Whole:
        return self

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.content)


def both(path: Path, start: float, first: int = 0, frames: int = 50, settings: Settings = SETTINGS, spec=SPEC):
    """A window from the file, and from its piece."""
    medias = (path, Whole(path, "video", first, frames, settings))
    return [decode_window(media, lambda _: start, CentreView(), spec) for media in medias]


def alike(one: np.ndarray, other: np.ndarray, most: float = 3.0) -> bool:
    """Whether each frame differs by what the codec loses, so that no frame is another one."""
    return bool((np.abs(one.astype(float) - other).mean((1, 2, 3)) <= most).all())


def counting(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frames that all differ: a bar that moves, and a brightness that rises."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        frames[number] = 40 + number * 160 // count
        place = number * 7 % (width - 8)
        frames[number, :, place : place + 8] = 230
    return frames


def position_of(click: np.ndarray) -> int:
    return int(np.flatnonzero(np.abs(click) > 0.1)[0])


@pytest.mark.parametrize("fps", [30, 25, 10, 7])
@pytest.mark.parametrize("start", [0.0, 0.7, 1.8])
def test_the_same_frames_and_sound(tmp_path, fps, start):
    path = write(tmp_path / "a.mp4", counting(5 * fps), fps=fps, sound=click_at(2.345, 5), gop=fps)
    ours, packed = both(path, start)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    assert np.abs(ours.audio_L - packed.audio_L).max() < 2e-3
    assert ours.start == packed.start


def test_a_piece_that_begins_later(tmp_path):
    path = write(tmp_path / "a.mp4", counting(180), fps=30, sound=click_at(3.3, 6), gop=45)
    ours, packed = both(path, 2.1, first=13, frames=45)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    assert abs(position_of(ours.audio_L) - position_of(packed.audio_L)) <= HALF_A_MILLISECOND


def test_variable_frame_rate(tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.4, 60)).tolist()
    path = write(tmp_path / "a.mkv", counting(60), times=times, fps=30)
    for start in (0.0, 1.3, 4.2):
        ours, packed = both(path, start, frames=80)
        assert alike(ours.frames_TSS3, packed.frames_TSS3)


def test_frames_out_of_order(tmp_path):
    """B frames: packets do not come in the order of time, and the first may be of a time before 0."""
    path, frames = tmp_path / "a.mp4", counting(90)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 64, "yuv420p", 30
        stream.max_b_frames, stream.options = 3, {"b_strategy": "0"}
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    ours, packed = both(path, 0.0, frames=30, spec=InputConfig(frames=30, size=64))
    assert alike(ours.frames_TSS3, packed.frames_TSS3)


def late(path: Path, picture: float, sound: float, picture_length: float = 5.0, sound_length: float = 5.0) -> Path:
    """A film whose streams start and end at different times."""
    frames = counting(round(30 * picture_length))
    tone = click_at(1.5, sound_length)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.height, video.width, video.pix_fmt, video.gop_size = 64, 64, "yuv420p", 15
        video.max_b_frames = 0
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        packets = []
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (picture + number / 30)), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        for first in range(0, len(tone), 1024):
            block = av.AudioFrame.from_ndarray(tone[None, first : first + 1024], format="fltp", layout="mono")
            block.sample_rate, block.time_base = RATE, Fraction(1, RATE)
            block.pts = round(sound * RATE) + first
            packets += audio.encode(block)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


@pytest.mark.parametrize(("picture", "sound"), [(0.0, 0.73), (0.73, 0.0), (0.0, 0.0)])
def test_streams_that_start_late_stay_in_place(tmp_path, picture, sound):
    path = late(tmp_path / "a.mkv", picture, sound)
    for start in (0.0, 0.4, 1.1):
        ours, packed = both(path, start, frames=58)
        assert alike(ours.frames_TSS3, packed.frames_TSS3)
        assert abs(position_of(ours.audio_L) - position_of(packed.audio_L)) <= HALF_A_MILLISECOND


def test_a_picture_that_ends_before_the_sound(tmp_path):
    path = late(tmp_path / "a.mp4", 0.0, 0.0, picture_length=5.0, sound_length=12.0)
    ours, packed = both(path, 1.2, frames=120)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    held = decode_window(path, lambda _: 8.0, CentreView(), SPEC).frames_TSS3  # the last picture stands
    assert (held == held[:1]).all()
    for first, frames in ((0, 120), (70, 50)):
        piece = Whole(path, "video", first, frames)
        assert alike(decode_window(piece, lambda _: 8.0, CentreView(), SPEC).frames_TSS3, held)
        assert decode_sound(piece, lambda _: 8.0, SPEC)[1] == 8.0


def test_sound_that_ends_before_the_picture(tmp_path):
    path = late(tmp_path / "a.mp4", 0.0, 0.0, picture_length=8.0, sound_length=3.0)
    ours, packed = both(path, 1.5, frames=80)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    assert np.abs(ours.audio_L - packed.audio_L).max() < 2e-3
    assert not packed.audio_L[round(2.0 * RATE) :].any()


def test_a_window_past_the_end_repeats_the_last_frame(tmp_path):
    path = write(tmp_path / "a.mp4", counting(20), fps=10)
    ours, packed = both(path, 0.0, frames=20)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    assert packed.audio_L is None


def test_a_mirrored_picture_stays_mirrored(tmp_path):
    path = rotate(write(tmp_path / "a.mp4", counting(40, 64, 96), fps=10), "mirrored")
    ours, packed = both(path, 0.3, frames=40)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    assert not alike(ours.frames_TSS3[:, :, ::-1], packed.frames_TSS3, 20)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_is_applied(tmp_path, quarters):
    path = write(tmp_path / "a.mp4", counting(40, 64, 96), fps=10)
    rotate(path, quarters)
    ours, packed = both(path, 0.3, frames=40)
    assert alike(ours.frames_TSS3, packed.frames_TSS3)
    with av.open(io.BytesIO(transcode(path, "video", 0, 40, SETTINGS, 60).content)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == ((64, 96) if quarters % 2 else (96, 64))


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(360, 640, 256, (456, 256)), (640, 360, 256, (256, 456)), (63, 97, 256, (96, 62)), (300, 300, 128, (128, 128))],
)
def test_the_shorter_side_shrinks_and_never_grows(tmp_path, height, width, size, expected):
    path = write(tmp_path / "a.mp4", flash_at(0.5, 1, 10, height, width), fps=10)
    settings = Settings(**(vars(SETTINGS) | {"size": size}))
    with av.open(io.BytesIO(transcode(path, "video", 0, 10, settings, 60).content)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == expected


@pytest.mark.parametrize("matrix", [1, 2, 5, 9])
@pytest.mark.parametrize("colour_range", [1, 2])
@pytest.mark.parametrize("codec", ["mpeg4 q=1", "h264 q=10", "mjpeg q=2"])
def test_the_same_colours(tmp_path, matrix, colour_range, codec):
    """Whatever matrix and range the source has, tagged or not: RGB comes out the same."""
    y, x = np.mgrid[0:64, 0:64]
    planes = [60 + 2 * x, 80 + 2 * x[:32, :32], 180 - 2 * y[:32, :32]]
    planar = np.concatenate([plane.astype(np.uint8).ravel() for plane in planes]).reshape(96, 64)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 64
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "1"}
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, colour_range
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(planar, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            frame.colorspace, frame.color_range = matrix, colour_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    settings = Settings(**(vars(SETTINGS) | {"video": codec}))
    ours, packed = both(path, 0.0, frames=40, settings=settings)
    bias = (ours.frames_TSS3.astype(float) - packed.frames_TSS3).mean((0, 1, 2))
    # Another matrix or range shifts some channel by 3.6 or more; JPEG has one matrix, so colours are converted.
    assert np.abs(bias).max() < (2.0 if codec.startswith("mjpeg") else 0.5)
    assert alike(ours.frames_TSS3, packed.frames_TSS3, 2.0)


@pytest.mark.parametrize(("sound", "ending"), [("pcm", b"RIFF"), ("flac", b"fLaC")])
def test_sound_files(tmp_path, sound, ending):
    path = write(tmp_path / "a.flac", None, sound=np.stack([click_at(2.2, 6), 0.5 * click_at(3.1, 6)]), layout="stereo",
                 audio_codec="flac")  # fmt: skip
    settings = Settings(**(vars(SETTINGS) | {"sound": sound}))
    whole = Whole(path, "audio", 10, 45, settings)
    assert whole.content[:4] == ending
    ours, packed = (decode_sound(media, lambda _: 2.0, SPEC)[0] for media in (path, whole))
    assert np.abs(ours - packed).max() < 1e-4


def test_pictures(tmp_path):
    path = tmp_path / "a.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 100, 120, "rgb24"
        pixels = np.kron(np.arange(120, dtype=np.uint8).reshape(10, 12), np.ones((10, 10), np.uint8))
        frame = av.VideoFrame.from_ndarray(np.stack([pixels, 200 - pixels, pixels], -1), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = Whole(path, "image", 0, 0)
    assert whole.content[:2] == b"\xff\xd8"
    ours, packed = (decode_picture(media, CentreView(), SPEC) for media in (path, whole))
    assert alike(ours, packed)


@pytest.mark.parametrize("codec", ["mpeg4 q=3", "h264 q=21", "mjpeg q=3"])
def test_the_same_bytes_and_a_keyframe_a_second(tmp_path, codec):
    path = write(tmp_path / "a.mp4", counting(40), fps=10, sound=click_at(1, 4))
    settings = Settings(**(vars(SETTINGS) | {"video": codec}))
    content = transcode(path, "video", 5, 30, settings, 60).content
    assert content == transcode(path, "video", 5, 30, settings, 60).content
    with av.open(io.BytesIO(content)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert audio.codec_context.name == "pcm_s16le"
        packets = [packet for packet in container.demux(video) if packet.size]
        keys = [round(packet.pts * packet.time_base * 10) for packet in packets if packet.is_keyframe]
        assert keys == (list(range(30)) if codec.startswith("mjpeg") else [0, 10, 20])
        assert all(packet.pts == packet.dts for packet in packets)  # no B frames


def test_what_is_wrong_with_a_source(tmp_path):
    whole = write(tmp_path / "whole.mkv", counting(80), fps=10, sound=click_at(1, 8))
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    made = transcode(torn, "video", 0, 80, SETTINGS, 60)  # what is there can be had
    assert made.why.startswith("breaks off at ")
    assert 10 < made.frames < 60
    with av.open(io.BytesIO(made.content)) as container:
        assert abs(container.duration / av.time_base - made.frames / 10) <= 0.25
    assert transcode(torn, "video", 0, 10, SETTINGS, 60).why is None
    with pytest.raises(MediaError, match=r"video: breaks off at \d\.\d+ s, though the file should last 8"):
        transcode(torn, "video", 70, 10, SETTINGS, 60)
    with pytest.raises(MediaError, match=r"took more than 1e-09 s \(--seconds\)"):
        transcode(whole, "video", 0, 80, SETTINGS, 1e-9)
    with pytest.raises(MediaError, match="audio: the file has no sound"):
        probe(write(tmp_path / "mute.mp4", counting(20)), "audio")
    with pytest.raises(MediaError, match="video: no such file"):
        probe(tmp_path / "none.mp4", "video")
    with pytest.raises(MediaError, match=r"duration: 0\.20 s"):
        probe(write(tmp_path / "short.mp4", counting(2)), "video")
