"""Damaged media, decoded as readers do: `python -m tests.fuzz.media [count] [seed]`.

Each file is one of some small ones of many kinds, mutated as its own seed says, in a process that may crash. A clip or
a `MediaError` is right. A finding is another exception, a process that dies, one that takes too long, or memory of a
process that has grown by more than 1 GB since its first file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from tests.memory import Growth
from vatt.clip import InputConfig
from vatt.data.augment import CentreView
from vatt.data.decode import MediaError, decode_picture, decode_sound, decode_window, duration_of, open_media
from vatt.isolated import Failed, run_isolated

LIMIT = 10.0  # seconds: data.decode_timeout of these
HANG = 120.0  # seconds for all that is done with a file, on a loaded machine
MOST = 1000  # MB by which the memory of a process may grow
_SPEC = InputConfig(frames=8, fps=8, size=32, sample_rate=16000)  # a second
# name of the file: codec of the picture, of the sound
_FILMS = {
    "a.mp4": ("libx264", "aac"),
    "b.mkv": ("mpeg4", "flac"),
    "c.avi": ("mpeg4", "mp3"),
    "d.ts": ("mpeg2video", "mp2"),
    "e.webm": ("libvpx", "libopus"),
    "f.flv": ("flv", "mp3"),
    "g.mov": ("mjpeg", "pcm_s16le"),
    "h.mpg": ("mpeg1video", "mp2"),
    "i.nut": ("ffv1", "pcm_f32le"),
}
_QUICK = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
_SOUNDS = {
    "j.wav": "pcm_s16le",
    "k.mp3": "mp3",
    "l.flac": "flac",
    "m.aac": "aac",
    "n.ogg": "libopus",
    "o.caf": "alac",
}
_PICTURES = {
    "p.png": ("png", "rgb24"),
    "q.jpg": ("mjpeg", "yuvj420p"),
    "r.gif": ("gif", "rgb8"),
    "s.bmp": ("bmp", "bgr24"),
    "t.tiff": ("tiff", "rgb24"),
    "u.webp": ("libwebp", "yuv420p"),
    "v.qoi": ("qoi", "rgb24"),
    "w.ppm": ("ppm", "rgb24"),
}
_NUMBERS = (  # that are put in place of four bytes
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    bytes(4),
    b"\0\x10\0\0",
    b"\0\0\0\x10",
)


def kind_of(name: str) -> str:
    """ "video", "audio" or "image"."""
    return "video" if name in _FILMS else "audio" if name in _SOUNDS else "image"


def write_originals(folder: Path) -> None:
    """Small files of all kinds that this FFmpeg can write."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    sound = (0.3 * np.sin(np.arange(1.6 * 48000) / 20)).astype(np.float32)
    for name, codecs in _FILMS.items():
        _write(folder / name, codecs[0], codecs[1], picture, sound)
    for name, codec in _SOUNDS.items():
        _write(folder / name, None, codec, picture, sound)
    for name, (codec, form) in _PICTURES.items():
        if codec in av.codecs_available:
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, form, Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)
            (folder / name).write_bytes(b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)])))
    gif = folder / "r.gif"  # the encoder gives the picture alone, without the head of the file
    with av.open(str(gif), "w") as out:
        stream = out.add_stream("gif", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for shift in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, shift, 1), format="rgb24")))
        out.mux(stream.encode(None))


def _write(path: Path, video: str | None, audio: str, picture: np.ndarray, sound: np.ndarray) -> None:
    with av.open(str(path), "w") as out:
        film = None
        if video is not None:
            film = out.add_stream(video, rate=25)
            film.width, film.height, film.gop_size = 64, 48, 12
            film.options = _QUICK.get(video, {})
            film.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        heard = out.add_stream(audio, rate=48000, layout="mono")
        if film is not None:
            for number in range(40):
                moved = np.ascontiguousarray(np.roll(picture, number, 1))
                out.mux(film.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            out.mux(film.encode(None))
        block = 960
        for first in range(0, len(sound), block):
            frame = av.AudioFrame.from_ndarray(sound[None, first : first + block], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
            out.mux(heard.encode(frame))
        out.mux(heard.encode(None))


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Some of what happens to files: flipped bits, blocks that are zero, gone, twice or of another file, numbers that
    are huge, an end that is missing."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 1 + max(1, len(data) // 4)))
        at = int(at**0.5 * rng.integers(1, 1 + len(data) ** 0.5) / 2) % len(data)  # more often near the beginning
        what = rng.integers(8)
        if what == 0:
            for place in rng.integers(len(data), size=int(rng.integers(1, 60))):
                data[int(place)] ^= 1 << int(rng.integers(8))
        elif what == 1:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif what == 2 and len(data) > length + 16:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at : at + min(length, 4096)]
        elif what == 4:
            data[at : at + length] = other[at : at + length]
        elif what == 5:
            huge = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
            data[at : at + len(huge)] = huge
        elif what == 6:
            del data[max(16, int(rng.integers(len(data)))) :]
        else:
            data[at : at + 8] = rng.integers(0, 256, 8).astype(np.uint8).tobytes()
        if not data:
            data += b"\0"
    return bytes(data)


def decode(path: Path, kind: str) -> str:
    """What readers, `vatt data check` and `vatt data pack` do with a file. Returns "clip"."""
    if kind == "image":
        decode_picture(path, CentreView(), _SPEC, LIMIT)
        return "clip"
    with open_media(path, kind) as container:
        duration_of(container, path)
    for place in (0.0, 1.0):
        start = partial(_start, place)
        if kind == "audio":
            decode_sound(path, start, _SPEC, LIMIT)
        else:
            decode_window(path, start, CentreView(), _SPEC, LIMIT)
    return "clip"


def _start(place: float, duration: float) -> float:
    return place * max(0.0, duration - 1.0)


_GROWTH: list[Growth] = []  # of this process, from its first file on


def one(folder: Path, names: list[str], seed: int) -> tuple[str, float, float]:
    """Makes and decodes the file of a seed: what came of it, by how much the process has grown (MB), seconds."""
    if not _GROWTH:
        _GROWTH.append(Growth())
    rng = np.random.default_rng(seed)
    name = names[seed % len(names)]
    content = mutate((folder / name).read_bytes(), (folder / names[int(rng.integers(len(names)))]).read_bytes(), rng)
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=Path(name).suffix) as file:
        file.write(content)
        file.flush()
        try:
            outcome = decode(Path(file.name), kind_of(name))
        except MediaError as error:
            outcome = error.field
    return outcome, _GROWTH[0].megabytes() or 0.0, time.monotonic() - began


def main(count: int = 2000, seed: int = 0, workers: int = 1) -> int:
    """Tries ``count`` files from ``seed`` on, and prints findings and a last line. 1 if there is a finding, else 0."""
    with tempfile.TemporaryDirectory(prefix="vatt-fuzz-") as place:
        write_originals(Path(place))
        return run(Path(place), count, seed, workers)


def run(folder: Path, count: int, seed: int, workers: int = 1) -> int:
    """As `main`, of the files that `write_originals` has written into ``folder``."""
    names = sorted(path.name for path in folder.iterdir())
    print(f"media: {count} files of {len(names)} kinds, seeds {seed} to {seed + count - 1}, PyAV {av.__version__}")
    found, grown, longest, outcomes = 0, 0.0, 0.0, Counter[str]()
    trying = partial(one, folder, names)
    for number, result in run_isolated(trying, range(seed, seed + count), workers=workers, seconds=HANG, fork=True):
        if isinstance(result, Failed):
            found += 1
            print(f"seed {number} ({names[number % len(names)]}): {result.reason}", flush=True)
            continue
        outcome, growth, seconds = result
        outcomes[outcome] += 1
        if growth > MOST and growth > grown:
            found += 1
            print(f"seed {number} ({names[number % len(names)]}): memory grew by {growth:.0f} MB", flush=True)
        grown, longest = max(grown, growth), max(longest, seconds)
    print("outcomes: " + ", ".join(f"{name} {times}" for name, times in outcomes.most_common()))
    print(f"{count} files, {found} findings, largest growth {grown:.0f} MB, longest {longest:.1f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:4])))
