"""Which frames are decoded: those of a full decode, whatever was left out, wherever a search in the file leads."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.media import RATE, click_at
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import (
    ROUNDING,
    MediaError,
    RgbFrames,
    Wanted,
    decode_sound,
    decode_window,
    decode_windows,
    duration_of,
    open_media,
)
from vatt.data.decode.pictures import Pictures
from vatt.data.decode.skipping import may_skip, tells_order

SPEC = InputConfig(frames=8, fps=10, size=48, sample_rate=8000)  # 0.8 s
FPS, LENGTH = 25, 3.0
X264 = "bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0:keyint=25"
X265 = "bframes=4:b-pyramid=1:b-adapt=0:scenecut=0:keyint=25:log-level=none:pools=1"
FILMS = {  # name: encoder, options, whether frames may be skipped
    "h264.mp4": ("libx264", {"x264-params": X264}, True),
    "h264.mkv": ("libx264", {"x264-params": X264}, True),
    "h264.ts": ("libx264", {"x264-params": X264}, True),
    "h264_open.mp4": ("libx264", {"x264-params": X264 + ":open-gop=1"}, True),
    "h264_interlaced.mp4": ("libx264", {"x264-params": X264 + ":tff=1"}, False),
    "h264.avi": ("libx264", {"x264-params": X264}, False),
    "hevc.mp4": ("libx265", {"x265-params": X265}, True),
    "hevc_open.mkv": ("libx265", {"x265-params": X265 + ":open-gop=1"}, True),
    "hevc.ts": ("libx265", {"x265-params": X265}, True),
    "hevc_layers.mp4": ("libx265", {"x265-params": X265 + ":temporal-layers=3"}, False),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "12"}, True),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "12"}, True),
    # Large frames: after a search in a program stream, FFmpeg mislabels frames of which several share a packet.
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "12", "qmin": "1", "qmax": "1"}, True),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "25", "auto-alt-ref": "1"}, True),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "g": "25"}, False),
    "mjpeg.mov": ("mjpeg", {}, False),
}


def film(path, codec, options, sound=True, late=0.0):
    """A texture that moves from frame to frame, with a click at 1.5 s; the picture begins at ``late`` seconds."""
    height, width, rng = 64, 96, np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=FPS)
        video.height, video.width, video.options, video.thread_count = height, width, options, 1
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if "bf" in options:
            video.codec_context.max_b_frames = int(options["bf"])
        name = "libopus" if path.suffix == ".webm" else "mp2" if path.suffix == ".mpg" else "aac"
        audio = out.add_stream(name, rate=RATE, layout="mono") if sound else None
        if audio is not None:
            block = np.ascontiguousarray(click_at(1.5, LENGTH)[None])
            heard = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE, 0, Fraction(1, RATE)
            out.mux(audio.encode(heard))
            out.mux(audio.encode(None))
        for number in range(round((LENGTH - late) * FPS)):
            picture = 128 + 60 * np.sin((x + 3 * number) / 9) * np.cos((y - 2 * number) / 7)
            picture = np.clip(picture + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture[..., None].repeat(3, 2), format="rgb24")
            frame.pts, frame.time_base = number + round(late * FPS), Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    made = {}

    def get(name):
        if name not in made:
            codec, options, _ = FILMS[name]
            made[name] = film(folder / name, codec, options)
        return made[name]

    return get


def all_frames(path):
    """Times and pictures of a whole film, decoded from its beginning."""
    out, times = [], []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for frame in container.decode(video=0):
            times.append(frame.pts * float(container.streams.video[0].time_base) - container.start_time / av.time_base)
            picture = np.empty((1, SPEC.size, SPEC.size, 3), np.uint8)
            RgbFrames(CentreView(), picture).write(frame, 0, 1)  # without colours nothing waits
            out.append(picture[0])
    if path.suffix == ".avi":  # which tells no times of presentation: the frames come in order
        times = sorted(times)
    return np.array(times), np.stack(out)


def wanted_frames(path, start, frames=SPEC.frames):
    times, pictures = all_frames(path)
    moments = start + (np.arange(frames) + 0.5) / SPEC.fps + ROUNDING
    return pictures[np.maximum(np.searchsorted(times, moments, side="right") - 1, 0)]


def off_by(sound_L, start):
    """Seconds between the click and the moment where it belongs."""
    return abs(np.argmax(np.abs(sound_L) > 0.2) / SPEC.sample_rate - (1.5 - start))


def near(path):
    """Seconds; .ts and .mpg do not tell the delay of the encoder, up to 1024 samples."""
    return 0.025 if path.suffix in (".ts", ".mpg") else 0.004


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that come out of the decoder."""
    count, show = [], Pictures._show
    monkeypatch.setattr(Pictures, "_show", lambda self, frame, time: (count.append(time), show(self, frame, time))[1])
    return count


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_those_of_a_full_decode(films, name, decoded):
    path = films(name)
    with open_media(path, "video") as container:
        assert (tells_order(container) and may_skip(container.streams.video[0])) == FILMS[name][2]
    if name == "h264.avi":
        return  # its times are wrong by the frames that were reordered, as for any reader
    for start in (0.0, 0.3, 0.9, 1.2, 1.7, 2.2):
        found = decode_window(path, lambda _, s=start: s, CentreView(), SPEC, HANG)
        np.testing.assert_array_equal(found.frames_TSS3, wanted_frames(path, start))
        if 0.75 < start < 1.4:
            assert off_by(found.audio_L, start) < near(path)
    if FILMS[name][2] and "vp9" not in name:
        decoded.clear()
        decode_window(path, lambda _: 1.05, CentreView(), SPEC, HANG)
        assert len(decoded) < 20  # of 21 to 26 from the keyframe at 1.0 s on, or the one before


def test_several_windows_of_one_opened_film(films):
    path, starts = films("h264_open.mp4"), [1.7, 0.0, 0.9, 0.9]
    outs = [(np.empty((8, 48, 48, 3), np.uint8), np.empty(SPEC.samples, np.float32)) for _ in starts]
    wanted = [
        Wanted(lambda _, s=start: s, [RgbFrames(CentreView(), frames)], sound)
        for start, (frames, sound) in zip(starts, outs, strict=True)
    ]
    written = decode_windows(path, wanted, SPEC, HANG)
    assert [(window.start, window.has_sound) for window in written] == [(start, True) for start in starts]
    for start, (frames, sound) in zip(starts, outs, strict=True):
        alone = decode_window(path, lambda _, s=start: s, CentreView(), SPEC, HANG)
        np.testing.assert_array_equal(frames, alone.frames_TSS3)
        np.testing.assert_allclose(sound, alone.audio_L, atol=1e-3)


@pytest.mark.parametrize("name", ["one_key.ts", "one_key.mpg", "refresh.ts", "refresh.mp4"])
def test_a_file_that_leads_behind_the_wanted_time(tmp_path, name):
    """One keyframe for the whole film, or none after the first but strips that are refreshed in turn: FFmpeg's search
    for a keyframe ends behind the wanted time, or nowhere."""
    x264 = "keyint=500:scenecut=0:bframes=0" + (":intra-refresh=1" if "refresh" in name else "")
    codec = ("mpeg2video", {"g": "500"}) if name.endswith("mpg") else ("libx264", {"x264-params": x264})
    path = film(tmp_path / name, *codec)
    for start in (0.0, 0.8, 1.2, 2.1):
        found = decode_window(path, lambda _, s=start: s, CentreView(), SPEC, HANG)
        np.testing.assert_array_equal(found.frames_TSS3, wanted_frames(path, start))
        sound, _ = decode_sound(path, lambda _, s=start: s, SPEC, HANG)
        for heard in (found.audio_L, sound):
            if 0.75 < start < 1.4:
                assert off_by(heard, start) < near(path)


def test_a_picture_that_begins_after_its_sound(tmp_path):
    """The first frame is shown before its time."""
    for name in ("late.mp4", "late.mkv"):
        path = film(tmp_path / name, "libx264", {"x264-params": X264}, late=1.0)
        for start in (0.0, 0.5, 1.1):
            found = decode_window(path, lambda _, s=start: s, CentreView(), SPEC, HANG)
            np.testing.assert_array_equal(found.frames_TSS3, wanted_frames(path, start))


def test_one_bad_packet_does_not_lose_the_clip(tmp_path):
    """The frames around it are there; in its place stands the one before, or what the decoder makes of it."""
    path = film(tmp_path / "m.mov", "mjpeg", {}, sound=False)
    before = wanted_frames(path, 0.5)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    at, size = places[21]  # shown at 0.85 s: the fourth frame of the window
    content[at : at + size] = b"\0" * size
    path.write_bytes(content)
    found = decode_window(path, lambda _: 0.5, CentreView(), SPEC, HANG).frames_TSS3
    same = [bool((a == b).all()) for a, b in zip(found, before, strict=True)]
    assert same == [True] * 3 + [False] + [True] * 4
    for at, size in places[20:]:
        content[at : at + size] = b"\0" * size
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"breaks off at|no frame could be decoded"):
        decode_window(path, lambda _: 1.5, CentreView(), SPEC, HANG)


def test_the_length_is_known_where_the_header_does_not_say(tmp_path):
    path = tmp_path / "live.webm"
    codec, options, _ = FILMS["vp8.webm"]
    whole = film(tmp_path / "whole.webm", codec, options)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"live": "1"}) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    with open_media(path, "video") as container:
        assert not container.duration
        assert duration_of(container, path) == pytest.approx(LENGTH, abs=0.1)
    found = decode_window(path, lambda length: length - 0.9, CentreView(), SPEC, HANG)
    np.testing.assert_array_equal(found.frames_TSS3, wanted_frames(path, found.start))


def test_a_film_that_ends_before_its_sound_holds_its_last_frame(tmp_path):
    for name in ("short.mp4", "short.mkv"):
        path = tmp_path / name
        film(path, "libx264", {"x264-params": X264})
        shown = all_frames(path)[1][-1]
        longer = tmp_path / f"longer_{name}"
        with av.open(str(path)) as source, av.open(str(longer), "w") as out:
            video = out.add_stream_from_template(source.streams.video[0])
            audio = out.add_stream("aac", rate=RATE, layout="mono")
            block = np.ascontiguousarray(click_at(5.5, 6.0)[None])
            heard = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE, 0, Fraction(1, RATE)
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = video
                    out.mux(packet)
            out.mux(audio.encode(heard))
            out.mux(audio.encode(None))
        found = decode_window(longer, lambda length: length - 0.9, CentreView(), SPEC, HANG)
        assert (found.frames_TSS3 == shown).all()
        assert np.abs(found.audio_L).max() > 0.2
