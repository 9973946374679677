"""Media files to pieces: small files with a keyframe a second, at the frame rate of training, and sound as it is.

Picture: MPEG-4 part 2 (or H.264, Motion JPEG) without B frames, 4:2:0, with the colour matrix and range of the source,
upright, its shorter side scaled down to ``size``. Frame g of a source is the last one shown at (g + 0.5) / fps, as
`vatt.data.decode` reads it. Sound: mono, 48 kHz, PCM or FLAC, beside the picture in one Matroska file. All are the same
bytes for the same input: one thread, no random identifiers, no dates.

Times are seconds from the start of the source.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.audio import Sound
from vatt.data.decode.container import (
    MediaError,
    Opened,
    TimeLimit,
    check_duration,
    open_media,
    open_windows,
)
from vatt.data.decode.image import first_frame
from vatt.data.decode.streams import duration_of, sound_length
from vatt.data.decode.video import read_window
from vatt.data.decode.view import upright
from vatt.data.shards.format import Settings

BLOCK = 4800  # samples of a packet of PCM: whole milliseconds, which is what Matroska counts in
FLAC_BLOCK = 4608  # what the encoder asks for
QUALITY = {"mpeg4": 3, "h264": 21, "mjpeg": 3}  # the quantiser, of H.264 the constant rate factor
SOUNDS = ("pcm", "flac")
ENDINGS = {"video": "mkv", "image": "jpg"}
_FULL = 2  # AVCOL_RANGE_JPEG
_UNKNOWN, _BT601 = 2, 5  # of AVColorSpace
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}


@dataclass(frozen=True)
class Probed:
    """A source as it was when it was first read.

    Attributes:
        duration: 0 if it is not known.
        sound: seconds of its sound, None if it has none, 0 if it is not known.
    """

    size: int
    changed: int  # nanoseconds, of its last change
    sha256: str
    duration: float
    sound: float | None


@dataclass(frozen=True)
class Made:
    """A piece as a file. ``frames``: how long it is; less than was asked where the source breaks off, and ``why`` says
    so."""

    content: bytes
    frames: int
    why: str | None = None


def ending_of(kind: str, settings: Settings) -> str:
    """Of a member."""
    return ENDINGS.get(kind) or ("flac" if settings.sound == "flac" else "wav")


def probe(path: Path, kind: str) -> Probed:
    """Reads a source once, and its header. Raises MediaError: it cannot be used as a ``kind``."""
    with open_media(path, kind, broken="image" if kind == "image" else "container") as container:
        has_sound = bool(container.streams.audio)
        if kind != "audio" and not container.streams.video:
            what = "the file has no picture" if kind == "image" else "the file has no video stream"
            raise MediaError(path, kind, what)
        if kind == "audio" and not has_sound:
            raise MediaError(path, kind, "the file has no sound")
        length = duration_of if kind == "video" else _length
        duration = 0.0 if kind == "image" else length(container, path)
        check_duration(path, duration)
        sound = _length(container, path) if has_sound and kind != "image" else None
    try:
        with path.open("rb") as file:
            before = os.stat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.stat(file.fileno())
    except OSError as error:
        raise MediaError(path, kind, f"cannot be read: {error.strerror}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise MediaError(path, kind, "changes while it is read")
    return Probed(after.st_size, after.st_mtime_ns, sha256, duration, sound)


def transcode(path: Path, kind: str, first: int, frames: int, settings: Settings, seconds: float) -> Made:
    """The piece that begins at frame ``first`` of the grid and is ``frames`` long, as a file; of a picture, all of it.

    Raises:
        MediaError: it cannot be decoded or encoded, breaks off before it begins, or takes more than ``seconds``.
    """
    try:
        if kind == "image":
            return Made(_picture(path, settings, seconds), frames)
        begins, length = first / settings.fps, duration_of if kind == "video" else _length
        with open_windows(path, [lambda _: begins], frames / settings.fps, seconds, kind, length) as windows:
            _, opened = next(windows)
            return (_film if kind == "video" else _sound_file)(opened, frames, settings)
    except av.error.FFmpegError as error:
        raise MediaError(path, kind, f"cannot be transcoded: {error.strerror}") from error
    except MediaError as error:
        if error.field != "decode":
            raise
        raise MediaError(path, "decode", f"took more than {seconds:g} s (--seconds)") from None


def _length(container: Any, path: Path, limit: TimeLimit | None = None) -> float:
    return sound_length(container, path, limit)[0]


def _film(opened: Opened, frames: int, settings: Settings) -> Made:
    """Picture and sound in one file."""
    buffer, why = io.BytesIO(), None
    with _output(buffer, "matroska") as out:
        picture, spec = _Picture(settings, out), _spec(frames, settings)
        sound = None if opened.audio is None else Sound(opened, spec)
        try:
            read_window(opened, [picture], spec, sound)
        except MediaError as error:  # what comes before the break can be had
            frames = int((picture.time - opened.origin - opened.at) * settings.fps)
            if not error.reason.startswith("breaks off") or frames < 1:
                raise
            why = error.reason
            if sound is not None and not sound.is_complete(ended=True):
                sound.read()
        encoded = picture.packets + picture.end()
        packets = [packet for packet in encoded if packet.pts * packet.time_base * picture.rate < frames]
        if sound is not None:
            sound_s16 = _samples(sound, spec)[0]
            packets += _sound_packets(out, sound_s16[: round(frames / settings.fps * settings.rate)], settings)
        for packet in sorted(packets, key=lambda p: (float(p.pts * p.time_base), p.stream_index)):
            out.mux_one(packet)
    return Made(buffer.getvalue(), frames, why)


def _sound_file(opened: Opened, frames: int, settings: Settings) -> Made:
    spec = _spec(frames, settings)
    sound = Sound(opened, spec)
    sound.read()
    sound_s16, heard = _samples(sound, spec)
    why = sound.fault(heard, opened.duration)
    if why:
        frames = int((heard - opened.at) * settings.fps)
        if frames < 1:
            raise MediaError(opened.name, "audio", why)
        sound_s16 = sound_s16[: round(frames / settings.fps * settings.rate)]
    buffer = io.BytesIO()
    with _output(buffer, ending_of("audio", settings)) as out:
        for packet in _sound_packets(out, sound_s16, settings):
            out.mux_one(packet)
    return Made(buffer.getvalue(), frames, why)


def _output(buffer: io.BytesIO, name: str) -> Any:
    """A container without identifiers or dates that differ from run to run."""
    return av.open(buffer, "w", format=name, container_options={"fflags": "+bitexact"})


def _spec(frames: int, settings: Settings) -> InputConfig:
    return InputConfig(frames=frames, fps=settings.fps, sample_rate=settings.rate)


def _samples(sound: Sound, spec: InputConfig) -> tuple[np.ndarray, float]:
    """The sound of a piece, int16 (L,), silent where there is none; and where the last of it ends."""
    sound_L = np.empty(spec.samples, np.float32)
    heard = sound.write(sound_L)
    return np.clip(np.rint(sound_L * 32768), -32768, 32767).astype(np.int16), heard


def _picture(path: Path, settings: Settings, seconds: float) -> bytes:
    with open_media(path, "image", broken="image", limit=TimeLimit(path, seconds)) as container:
        frame = first_frame(container, path)
        made = _Picture(settings, None)
        packets = made.add(frame, range(1)) + made.end()
    return b"".join(bytes(packet) for packet in packets)


class _Picture:
    """Scales frames and encodes them: as a stream of ``out``, or a still picture if that is None. The encoder is made
    for the first frame."""

    def __init__(self, settings: Settings, out: Any) -> None:
        self.settings, self.out = settings, out
        self.rate = Fraction(str(settings.fps))
        self.codec, self.quality = codec_of(settings.image if out is None else settings.video)
        self.encoder: Any = None
        self.packets: list[Any] = []
        self.time = -1.0  # the time stamp of the last frame, seconds
        self.range, self.matrix = 1, _UNKNOWN
        self.graph: Graph | None = None
        self.key: Any = None

    def write(self, frame: VideoFrame, first: int, last: int) -> None:
        """Encodes a frame as those from ``first`` to ``last``, exclusive."""
        if frame.pts is not None and frame.time_base:
            self.time = max(self.time, float(frame.pts * frame.time_base))
        self.packets += self.add(frame, range(first, last))

    def finish(self) -> None:
        """The encoder ends with `end`."""

    def add(self, frame: VideoFrame, numbers: range) -> list[Any]:
        """The packets that come of showing a frame at these places."""
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if self.encoder is None:
            self._start(frame)
        if key != self.key or self.graph is None:
            self.graph, self.key = self._graph(frame), key
        frame.pts = 0
        self.graph.push(frame)
        pixels: Any = self.graph.pull().to_ndarray()
        packets = []
        for number in numbers:
            copy = VideoFrame.from_ndarray(pixels, format=self.encoder.pix_fmt)
            copy.pts, copy.time_base = number, 1 / self.rate
            copy.colorspace, copy.color_range = self.matrix, self.range
            packets += self.encoder.encode(copy)
        return packets

    def end(self) -> list[Any]:
        return self.encoder.encode(None)

    def _start(self, frame: VideoFrame) -> None:
        _, *sides = upright(frame)
        share = min(1.0, self.settings.size / min(sides))
        height, width = (max(2, int(side * share / 2 + (0.5 if share < 1 else 0)) * 2) for side in sides)
        full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        self.range, self.matrix = (_FULL if full else 1), int(frame.colorspace)
        if not frame.format.name.startswith(("yuv", "nv", "p01", "gray")) or self.matrix not in _MATRICES:
            self.matrix = _UNKNOWN  # which is read as BT.601; what is RGB becomes that
            self.range = self.range if frame.format.name.startswith(("yuv", "nv", "p01")) else 1
        if self.codec == "mjpeg":  # which has no other
            self.range, self.matrix = _FULL, _BT601
        self.encoder = self._encoder(width, height)

    def _encoder(self, width: int, height: int) -> Any:
        name = {"h264": "libx264"}.get(self.codec, self.codec)
        if self.out is None:
            encoder: Any = av.CodecContext.create(name, "w")
            made = encoder
        else:
            encoder = self.out.add_stream(name, rate=self.rate)
            made = encoder.codec_context
        made.width, made.height, made.time_base, made.framerate = width, height, 1 / self.rate, self.rate
        made.flags |= av.codec.context.Flags.bitexact
        made.pix_fmt = "yuvj420p" if self.codec == "mjpeg" else "yuv420p"
        made.colorspace, made.color_range = self.matrix, self.range
        made.gop_size, made.max_b_frames, made.thread_count = max(1, round(self.settings.fps)), 0, 1
        # No keyframe where the scene changes: it would shift the others.
        if self.codec == "h264":
            # Without the macroblock tree, whose assembly gives other bytes from run to run for the same frames.
            made.options = {
                "preset": "veryfast",
                "tune": "fastdecode",
                "crf": str(self.quality),
                "x264-params": "mbtree=0:open-gop=0:scenecut=0",
            }
        else:
            made.bit_rate = 200_000_000  # no bound: the quantiser alone decides
            made.options = {"qmin": str(self.quality), "qmax": str(self.quality), "sc_threshold": "1000000000"}
        return encoder

    def _graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        chain = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
        ]
        for name, arguments in upright(frame)[0]:
            chain.append(graph.add(name, arguments or None))
        full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        scale = f"{self.encoder.width}:{self.encoder.height}:flags=bicubic"
        scale += f":in_range={'full' if full else 'limited'}:out_range={'full' if self.range == _FULL else 'limited'}"
        # Always said: by itself, the filter converts to the matrix of untagged pictures.
        scale += f":in_color_matrix={_MATRICES.get(int(frame.colorspace), 'bt601')}"
        scale += f":out_color_matrix={_MATRICES.get(self.matrix, 'bt601')}"
        chain.append(graph.add("scale", scale))
        chain.append(graph.add("format", self.encoder.pix_fmt))
        chain.append(graph.add("buffersink"))
        for one, other in pairwise(chain):
            one.link_to(other)
        graph.configure()
        return graph


def codec_of(words: str) -> tuple[str, int]:
    """Codec and quality from their words in the settings, such as "mpeg4 q=3"."""
    codec, quality = words.split(" ")[:2]
    return codec, int(quality.partition("=")[2])


def _sound_packets(out: Any, sound_s16: np.ndarray, settings: Settings) -> list[Any]:
    """The sound as packets of a new stream of ``out``."""
    flac = settings.sound == "flac"
    stream = out.add_stream("flac" if flac else "pcm_s16le", rate=settings.rate, layout="mono")
    stream.format = "s16"
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    packets, block = [], FLAC_BLOCK if flac else BLOCK
    for first in range(0, len(sound_s16), block):
        frame = av.AudioFrame.from_ndarray(sound_s16[None, first : first + block], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = settings.rate, first, Fraction(1, settings.rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)
