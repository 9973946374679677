"""Films on which each frame carries its number, 25 a second, and a sound whose bursts tell their time by pitch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vatt.clip import InputConfig
from vatt.data.decode import Box

FPS, RATE = 25, 16000
SPEC = InputConfig(frames=16, fps=10, size=48, sample_rate=RATE)  # 1.6 s
CASES = Path(__file__).parents[1] / "cases"


class Whole:
    """The whole picture, as it is."""

    flip = False

    def box(self, height: int, width: int) -> Box:
        return Box(0, 0, height, width)

    def colours(self, mean_luma: float) -> None:
        return None


def frame_number(frame_HW3: np.ndarray) -> int:
    """The number of a frame: 12 cells, 3 rows of 4, white is 1, lowest bit first."""
    height, width = frame_HW3.shape[:2]
    number = 0
    for bit in range(12):
        row, column = divmod(bit, 4)
        cell = frame_HW3[
            row * height // 3 + height // 8 : (row + 1) * height // 3 - height // 8,
            column * width // 4 + width // 12 : (column + 1) * width // 4 - width // 12,
        ]
        number |= int(cell.mean() > 128) << bit
    return number


def picture(number: int, height: int = 48, width: int = 48) -> np.ndarray:
    """A frame that carries its number, uint8 (H, W, 3)."""
    frame = np.full((height, width, 3), 16, np.uint8)
    for bit in range(12):
        row, column = divmod(bit, 4)
        if number >> bit & 1:
            frame[row * height // 3 : (row + 1) * height // 3, column * width // 4 : (column + 1) * width // 4] = 235
    return frame


def bursts(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone of 60 ms each quarter of a second, the k-th of 400 + 80 k Hz: float32 (L,)."""
    times = np.arange(round(seconds * rate)) / rate
    number = np.floor(times * 4)
    phase = times - number / 4
    return np.where(phase < 0.06, 0.5 * np.sin(2 * np.pi * (400 + 80 * number) * phase), 0).astype(np.float32)


def moments(audio_L: np.ndarray, rate: int = RATE) -> list[tuple[float, int]]:
    """Where in a window bursts begin, seconds, and which ones they are."""
    found, at, long = [], 0, round(0.05 * rate)
    loud = np.abs(audio_L) > 0.1
    while at < len(audio_L) - long:
        if loud[at]:
            power = np.abs(np.fft.rfft(audio_L[at : at + long] * np.hanning(long), 8192))
            found.append((at / rate, round((power.argmax() * rate / 8192 - 400) / 80)))
            at += round(0.15 * rate)
        at += 1
    return found


def write_numbered(
    path: Path,
    codec: str = "libx264",
    audio_codec: str | None = "aac",
    *,
    frames: Sequence[int] = range(6 * FPS),
    seconds: float = 6.0,
    fps: int = FPS,
    late: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    form: str | None = None,
    rate: int = 48000,
) -> Path:
    """A film of the numbers in ``frames`` and ``seconds`` of sound, which begin ``late`` seconds after 0."""
    options = {"preset": "ultrafast", "tune": "animation", "bf": "2"} if codec == "libx264" and not options else options
    with av.open(str(path), "w", format=form, options=container_options or {}) as out:
        streams: list[Any] = []
        if codec:
            video = out.add_stream(codec, rate=fps, options=options or {})
            video.height, video.width = 48, 48
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            video.bit_rate = 2_000_000
            streams.append(video)
        if audio_codec is not None:
            audio = out.add_stream(audio_codec, rate=rate, layout="mono")
            streams.append(audio)
        packets = []
        if codec:
            for place, number in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = place + round(late[0] * fps), Fraction(1, fps)
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio_codec is not None:
            block = audio.codec_context.frame_size or 1024
            sound = bursts(seconds, rate)
            for first in range(0, len(sound), block):
                part = av.AudioFrame.from_ndarray(sound[None, first : first + block], format="fltp", layout="mono")
                part.sample_rate, part.time_base, part.pts = rate, Fraction(1, rate), first + round(late[1] * rate)
                packets += audio.encode(part)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            out.mux(packet)
    return path
