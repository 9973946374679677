"""Small real media files for the tests, written with PyAV."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48000


def click_at(seconds: float, length: float, rate: int = RATE) -> np.ndarray:
    """Silence with one short, loud tone burst."""
    sound = np.zeros(round(length * rate), np.float32)
    first = round(seconds * rate)
    burst = np.sin(2 * np.pi * 1000 * np.arange(round(0.02 * rate)) / rate)
    sound[first : first + len(burst)] = burst
    return sound


def flash_at(seconds: float, length: float, fps: float, height: int = 64, width: int = 96) -> np.ndarray:
    """Dark frames that turn white at one moment and stay so."""
    frames = np.full((round(length * fps), height, width, 3), 16, np.uint8)
    frames[round(seconds * fps) :] = 235
    return frames


def write(
    path: Path,
    frames: np.ndarray | None,
    times: list[float] | None = None,
    fps: int = 10,
    sound: np.ndarray | None = None,
    rate: int = RATE,
    layout: str = "mono",
    codec: str = "libx264",
    audio_codec: str = "aac",
    gop: int = 5,
    sound_at: float = 0.0,
) -> Path:
    """A file of frames (at ``times`` seconds, or steady) and of sound (L,) or (channels, L) from ``sound_at`` on."""
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = frames.shape[1:3]
            odd = frames.shape[1] % 2 or frames.shape[2] % 2
            video.pix_fmt = "yuv444p" if odd else "yuv420p"
            video.gop_size, video.codec_context.time_base = gop, Fraction(1, 1000)
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        if video is not None and frames is not None:
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.time_base = Fraction(1, 1000)
                frame.pts = round(1000 * (times[number] if times else number / fps))
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            planes = np.ascontiguousarray(np.atleast_2d(sound), np.float32)
            for first in range(0, planes.shape[1], 1024):
                block = np.ascontiguousarray(planes[:, first : first + 1024])
                part = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                part.sample_rate, part.time_base = rate, Fraction(1, rate)
                part.pts = first + round(sound_at * rate)
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def rotate(path: Path, quarter_turns: int | str) -> Path:
    """Writes a turn of the picture, or that it is "mirrored", into the display matrix of an .mp4's video track, as
    phones do."""
    turns = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0), "mirrored": (-1, 0, 0, 1)}
    a, b, c, d = turns[quarter_turns]
    fixed = struct.Struct(">9i")
    plain = fixed.pack(1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = fixed.pack(a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    track = content.index(plain, content.index(b"tkhd"))  # the first matrix of all is that of the film (mvhd)
    path.write_bytes(content[:track] + turned + content[track + len(plain) :])
    return path
