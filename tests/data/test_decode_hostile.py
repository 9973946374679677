"""Media that mean harm, or look as if: names, playlists, giants, bombs, damaged packets. None reads another file, hangs
or takes much memory; what cannot be used is named."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.media import flash_at, write
from tests.fuzz import media as fuzz
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.check.media import MediaFile, check_file
from vatt.data.decode import (
    MediaError,
    decode_picture,
    decode_sound,
    decode_window,
    open_media,
    opening,
    pictures,
    pyav_faults,
)
from vatt.isolated import run_isolated

CASES = Path(__file__).parents[1] / "cases"
SPEC = InputConfig(frames=8, fps=5, size=32, sample_rate=16000)  # 1.6 s


def window(path, start=0.0, timeout=HANG):
    return decode_window(Path(path), lambda duration: start, CentreView(), SPEC, timeout)


def sound(path, start=0.0, timeout=HANG):
    return decode_sound(Path(path), lambda duration: start, SPEC, timeout)[0]


def picture(path, timeout=HANG):
    return decode_picture(Path(path), CentreView(), SPEC, timeout)[0]


READ = {"video": window, "audio": sound, "image": picture}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    fuzz.write_originals(folder)
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    tone = 0.5 * np.sin(np.arange(4 * 48000) ** 1.2 / 200).astype(np.float32)
    return write(tmp_path_factory.mktemp("film") / "film.mp4", flash_at(1, 4, 10), sound=tone)


NAMES = ["concat:a", "http:", "subfile,,start,0,end,1,,:a", "pipe:0", "-", "a%d", "a%03d", "a*", "[0-9]", "b\\c"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_a_name(tmp_path, monkeypatch, film, name):
    """Neither an address nor a pattern, for pictures and films alike, also without a folder in front of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(CASES / "dog%d.jpg", f"{name}.jpg")
    for other in ("a0.jpg", "a000.jpg", "0.jpg"):
        shutil.copy(CASES / "dog0.jpg", other)
    np.testing.assert_allclose(picture(f"{name}.jpg").mean((0, 1)), [200, 0, 0], atol=3)
    np.testing.assert_allclose(picture("a0.jpg").mean((0, 1)), [0, 0, 200], atol=3)
    shutil.copy(film, f"{name}.mp4")
    assert window(f"{name}.mp4").audio_L is not None


def test_a_name_that_is_not_utf8(tmp_path, film):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4")
    shutil.copy(film, path)
    assert window(path).frames_TSS3.shape == (8, 32, 32, 3)


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><BaseURL>{}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=control:{}\n",
    "subtitles": "1\n00:00:01,000 --> 00:00:02,000\n{}\n",
    "drawing": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{}"/></svg>',
    "metadata": ";FFMETADATA1\ntitle={}\n",
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("format", LISTS)
def test_a_list_of_other_files_is_no_media(tmp_path, film, format, kind):
    """Neither a file nor an address that stands in it is opened."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for target in (str(film), f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"):
            path = tmp_path / ("a.jpg" if kind == "image" else "a.mp4")
            path.write_text(LISTS[format].format(target))
            with pytest.raises(MediaError, match="is text, and no container of media") as caught:
                READ[kind](path)
            assert caught.value.field == ("image" if kind == "image" else "container")
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path, monkeypatch):
    path, regular = tmp_path / "a.mp4", os.stat(__file__)
    os.mkfifo(path)
    monkeypatch.setattr(opening.os, "stat", lambda _: regular)
    with pytest.raises(MediaError, match=r"a\.mp4: video: is not a regular file"):
        window(path)
    monkeypatch.undo()
    with pytest.raises(MediaError, match=r"/dev/zero: audio: is not a regular file"):
        sound("/dev/zero")


def giant(path, head, size=1 << 40):
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def test_the_time_limit_holds_inside_ffmpeg(tmp_path):
    """A file of a terabyte without content, in which FFmpeg looks for the next part until its end."""
    path = giant(tmp_path / "a.avi", b"RIFF\xff\xff\xff\xffAVI LIST")
    for read in (window, sound):
        began = time.monotonic()
        with pytest.raises(MediaError, match=r"a\.avi: decode: took more than 0\.2 s \(data\.decode_timeout\)"):
            read(path, timeout=0.2)
        assert time.monotonic() - began < HANG
    assert check_file(MediaFile(path, "video", seconds=0.2)).field == "decode"
    with pytest.raises(MediaError, match=r"a\.jpg: image: has 1,099,511,627,776 bytes, at most"):
        picture(giant(tmp_path / "a.jpg", (CASES / "dog0.jpg").read_bytes()))
    raw = giant(tmp_path / "b.mp4", (CASES / "dog0.jpg").read_bytes()[:300])  # a picture without an end, as a film
    with pytest.raises(MediaError, match=r"took more than 0\.2 s|nothing to decode"):
        window(raw, timeout=0.2)


def test_the_time_limit_holds_where_reading_is_slow(film):
    class Slow:
        name, begins, seconds = "slow piece", 0.0, 4.0

        def open(self):
            file = film.open("rb")
            slow = type("", (), {"seek": file.seek, "tell": file.tell, "__exit__": lambda *_: file.close()})()
            type(slow).__enter__ = lambda _: slow
            slow.read = lambda size: (time.sleep(0.15), file.read(size))[1]
            return slow

    with (
        pytest.raises(MediaError, match=r"slow piece: decode: took more than 0\.1 s"),
        open_media(Slow(), "video", limit=opening.TimeLimit("slow piece", 0.1)) as container,
    ):
        list(container.demux())


HUGE = {
    "gif": b"GIF89a" + struct.pack("<HH", 16000, 16000) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    + b"," + struct.pack("<HHHH", 0, 0, 16000, 16000) + b"\0\x02\x02\x4c\x01\0;",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 16000, 16000) + b"\x08\x06\0\0\0",
    "jpg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + struct.pack(">HH", 16000, 16000) + b"\x03" + bytes(9),
    "webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * (15999).to_bytes(3, "little"),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 16000, -16000) + bytes(40),
    "qoi": b"qoif" + struct.pack(">II", 16000, 16000) + b"\x04\0" + bytes(7) + b"\1",
}  # fmt: skip


@pytest.mark.parametrize("ending", HUGE)
def test_a_bomb_is_refused_by_its_size(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(HUGE[ending])
    for kind in ("image", "video"):
        with pytest.raises(MediaError, match=rf"a\.{ending}: {kind}: its picture has 16000 x 16000 pixels, at most"):
            READ[kind](path)


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi", "d.ts", "i.nut"])
def test_a_film_of_too_many_pixels(originals, monkeypatch, name):
    monkeypatch.setattr(opening, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(MediaError, match=r"video: its picture has 64 x 48 pixels, at most 3,071 are decoded"):
        window(originals / name)
    assert np.abs(sound(originals / name)).max() > 0.1  # which has no need of the picture


def test_sizes_that_would_fill_the_memory(tmp_path, film, monkeypatch):
    """A part of a gigabyte, a packet that never ends, a sample a second, ten million of them."""
    monkeypatch.setattr(opening, "MOST_BYTES", 1 << 15)
    noise = np.random.default_rng(0).integers(0, 255, (20, 160, 240, 3)).astype(np.uint8)
    raw = write(tmp_path / "a.mkv", noise, codec="ffv1")
    with pytest.raises(MediaError, match=r"a\.mkv: container: has a part of [\d,]+ bytes, at most 32,768 are read"):
        window(raw)
    monkeypatch.undo()
    for rate in (1, 10_000_000):
        path = tmp_path / f"{rate}.wav"
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, rate, rate, 1, 8, b"data", 8 * rate
        )
        path.write_bytes(head + bytes(min(8 * rate, 6 << 20)))
        with pytest.raises(MediaError, match=rf"wav: audio: has {rate:,} samples a second of 1 channels"):
            sound(path)


@pytest.mark.parametrize("name", ["a.mp4", "g.mov"])
def test_an_index_that_is_only_claimed(tmp_path, originals, name):
    """A hundred million samples of two bytes, or in a chunk, in a file of 50 kB: FFmpeg would take 2 to 6 GB."""
    content, place = bytearray((originals / name).read_bytes()), -1
    while (place := content.find(b"stsz", place + 1)) > 0:
        struct.pack_into(">II", content, place + 8, 2, 10**8)
    while (place := content.find(b"stsc", place + 1)) > 0:
        struct.pack_into(">I", content, place + 16, 10**8)
    (tmp_path / name).write_bytes(content)
    for kind in ("video", "audio"):
        with pytest.raises(MediaError, match="container: claims to have 100,000,000 samples in a track"):
            READ[kind](tmp_path / name)
    if name == "g.mov":  # of which only the sound, PCM
        content = bytearray((originals / name).read_bytes())
        place = content.index(b"stsc", content.index(b"sowt"))
        struct.pack_into(">I", content, place + 16, 10**9)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=r"container: claims to have [\d,]+,000,000 samples in a track"):
            sound(tmp_path / name)


@pytest.mark.parametrize("ticks", [0, 2**31, 2**32 - 1])
def test_a_track_whose_seconds_have_no_ticks_that_ffmpeg_takes(tmp_path, originals, ticks):
    """It would count in whole seconds: a film of 1.6 s lasted hours, and each window was its last frame."""
    content = bytearray((originals / "a.mp4").read_bytes())
    struct.pack_into(">I", content, content.index(b"mdhd") + 16, ticks)
    (tmp_path / "a.mp4").write_bytes(content)
    for kind in ("video", "audio"):
        with pytest.raises(MediaError, match=rf"container: has a track of {ticks:,} ticks a second"):
            READ[kind](tmp_path / "a.mp4")


def test_a_layout_of_channels_of_its_own_does_not_end_the_process():
    """In a process of its own, since PyAV 17.1 to 18.1 abort."""
    for _, found in run_isolated(_loudest, [CASES / "abort_custom_layout.mov"], workers=1, seconds=HANG, fork=True):
        assert found == pytest.approx((0.095, 0.095), abs=0.01)


def _loudest(path):
    with av.open(str(path)) as container:  # as if the decoder itself had made it
        codec = container.streams.audio[0].codec_context
        for packet in container.demux(audio=0):
            assert pyav_faults.channels_of(codec.layout) == 8
            assert all(pyav_faults.channels_of(frame.layout) == 8 for frame in codec.decode(packet))
    for _ in range(5):  # memory that is freed twice may be found later
        found = float(np.abs(window(path).audio_L).max()), float(np.abs(sound(path)).max())
    return found


def damage(source, path, share):
    """A copy of a film in which this share of the packets of sound holds something else."""
    content, number = bytearray(source.read_bytes()), 0.0
    with av.open(str(source)) as container:
        for packet in container.demux(audio=0):
            number += share
            if packet.size and number >= 1:
                number -= 1
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    return path


def test_packets_of_sound_that_do_not_decode(tmp_path, film):
    """They are passed over; where they are the most, the film has no sound, and its picture all the same."""
    whole = window(film)
    some = window(damage(film, tmp_path / "some.mp4", 0.1))
    assert some.audio_L is not None
    assert 0.7 < np.corrcoef(whole.audio_L, some.audio_L)[0, 1] < 0.999  # each sample where it belongs, but for holes
    path = damage(film, tmp_path / "all.mp4", 1)
    none = window(path)
    assert none.audio_L is None
    np.testing.assert_array_equal(none.frames_TSS3, whole.frames_TSS3)
    words = r"\d+ of \d+ packets of a window do not decode \("
    with pytest.raises(MediaError, match=rf"all\.mp4: audio: {words}"):
        sound(path)
    tried = check_file(MediaFile(path, "video", sound=True, seconds=HANG))
    assert tried.field is None  # the picture can be trained on; the list of clips without sound has the reason
    assert "do not decode" in tried.reason
    assert "Operation not permitted" not in none.lost


def test_whatever_a_library_raises_is_a_bad_clip(film, monkeypatch):
    def take(*_):
        raise KeyError("no such thing")

    monkeypatch.setattr(pictures.Pictures, "take", take)
    with pytest.raises(MediaError, match=r"film\.mp4: container: cannot be decoded: KeyError 'no such thing'"):
        window(film)


def test_pictures_that_are_cut_short(tmp_path, originals):
    """Half of a picture is none, in any format; one of several that is whole is one."""
    with pytest.raises(MediaError, match=r"truncated\.jpg: image: cannot be decoded: is truncated"):
        picture(CASES / "truncated.jpg")
    kinds = [name for name in sorted(os.listdir(originals)) if fuzz.kind_of(name) == "image"]
    assert len(kinds) >= 6
    for name in kinds:
        content = (originals / name).read_bytes()
        assert picture(originals / name).std() > 10
        for share in (0.25, 0.5, 0.9) if name != "r.gif" else (0.1, 0.25):  # it holds three
            (tmp_path / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(MediaError, match=rf"{name}: image: "):
                picture(tmp_path / name)
    flipped = bytearray((originals / "p.png").read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "p.png").write_bytes(flipped)
    with pytest.raises(MediaError, match=r"p\.png: image: "):
        picture(tmp_path / "p.png")


@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_a_photograph_with_exif(tmp_path, orientation):
    """It is read, and as its orientation says: 2 is mirrored, 6 turned."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    bright = picture(tmp_path / "a.jpg").mean(-1) > 128
    assert bright.reshape(2, 16, 2, 16).mean((1, 3)).round().tolist() == (
        [[1, 0], [0, 0]] if orientation == 1 else [[0, 1], [0, 0]]
    )


def test_damaged_media_of_all_kinds(originals):
    """The short form; the long one is `python -m tests.fuzz.media`."""
    assert fuzz.run(originals, 46, seed=20) == 0
