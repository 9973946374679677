"""Other ways to decode the frames and the sound of a window: PyAV alone, decord2 and torchcodec, one thread each.

Each gives a function of the start of a window (seconds). PyAV alone is a bound for readers; the packages are called as
their users call them, with a batch of frame indices, and scale the pictures to what the model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.baselines import need
from vatt.clip import InputConfig

Decode = Callable[[float], Any]


def pyav(path: Path, spec: InputConfig, opens: Sequence[Sequence[str]]) -> Decode:
    """Decodes the frames and the sound of the window and drops them. ``opens``: the streams read of each open file."""

    def decode(start: float) -> None:
        for kinds in opens:
            with av.open(str(path)) as container:
                for kind in kinds:
                    stream: Any = container.streams.get({kind: 0})[0]
                    stream.thread_count = 1
                    container.seek(int(start / stream.time_base), stream=stream, backward=True)
                    frame: Any
                    for frame in container.decode(stream):
                        if frame.time >= start + spec.seconds:
                            break

    return decode


def _frames_at(start: float, fps: float, spec: InputConfig) -> list[int]:
    """Indices of the frames shown in the middle of each interval of the window."""
    times = start + (np.arange(spec.frames) + 0.5) / spec.fps
    return np.floor(times * fps + 1e-6).astype(int).tolist()


def decord2(path: Path, spec: InputConfig, fps: float) -> Decode:
    """Its reader of sound decodes the whole file. Raises ImportError."""
    cpu, video, audio = (need("decord", name) for name in ("cpu", "VideoReader", "AudioReader"))

    def decode(start: float) -> Any:
        # No name for the reader: it would go on decoding beside what follows.
        frames = video(str(path), ctx=cpu(0), width=spec.size, height=spec.size, num_threads=1).get_batch(
            _frames_at(start, fps, spec)
        )
        first = round(start * spec.sample_rate)
        sound = audio(str(path), ctx=cpu(0), sample_rate=spec.sample_rate, mono=True)
        return frames.asnumpy(), sound.get_batch(np.arange(first, first + spec.samples)).asnumpy()

    return decode


def torchcodec(path: Path, spec: InputConfig, fps: float) -> Decode:
    """Raises ImportError."""
    video, audio = (need("torchcodec.decoders", name) for name in ("VideoDecoder", "AudioDecoder"))
    resize = need("torchcodec.transforms", "Resize")([spec.size, spec.size])

    def decode(start: float) -> Any:
        reader = video(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, transforms=[resize])
        sound = audio(str(path), sample_rate=spec.sample_rate, num_channels=1)
        frames = reader.get_frames_at(_frames_at(start, fps, spec)).data
        return frames, sound.get_samples_played_in_range(start, start + spec.seconds).data

    return decode
