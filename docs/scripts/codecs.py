"""The table of codecs in docs/feeding-a-gpu.md: decode time, bytes and PSNR of pieces. Run as
``python docs/scripts/codecs.py [SECONDS]`` in the folder of the project; it takes minutes."""

from __future__ import annotations

import io
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

from vatt.data.pack import transcode as packing
from vatt.data.pack.transcode import transcode
from vatt.data.shards.format import Settings
from vatt.sample.encode import write_mp4

SIZE, FPS, WINDOW, RATE = 256, 10, 3.2, 48000
BASE = Settings(SIZE, FPS, WINDOW, 60.0, 10**9, RATE, "mpeg4 q=3", "pcm", "mjpeg q=2")
ROUNDS, WINDOWS = 6, 6


@dataclass(frozen=True)
class Case:
    """``changes``: of the encoder, by the names of its context or options."""

    video: str
    sound: str = "pcm"
    note: str = ""
    changes: tuple[tuple[str, Any], ...] = ()


CASES = [
    Case("mpeg4 q=2"),
    Case("mpeg4 q=3", note="the default"),
    Case("mpeg4 q=4"),
    Case("mpeg4 q=3", note="keyframe each half second", changes=(("gop_size", 5),)),
    Case("mpeg4 q=4", note="rate-distortion", changes=(("mbd", "rd"), ("trellis", "1"), ("cmp", "2"), ("subcmp", "2"))),
    Case("mpeg4 q=3", sound="flac"),
    Case("mpeg2video q=3"),
    Case("mpeg2video q=4"),
    Case("mjpeg q=3"),
    Case("mjpeg q=4"),
    Case("h264 q=21", note="fastdecode: no CABAC, no deblocking"),
    Case("h264 q=21", note="CABAC and deblocking", changes=(("tune", "zerolatency"),)),
    Case("h264 q=21", note="preset medium", changes=(("preset", "medium"),)),
    Case("h264 q=18", note="preset ultrafast", changes=(("preset", "ultrafast"),)),
]


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    versions = f"PyAV {av.__version__}, libavcodec {av.library_versions['libavcodec']}"
    what = f"{seconds} s a film, {SIZE} pixels on the shorter side at {FPS} frames/s, windows of {WINDOW} s"
    print(f"{versions}; {what}; medians of {ROUNDS} rounds in turns")
    with tempfile.TemporaryDirectory(prefix="vatt-codecs-") as folder:
        for name, frames in films(seconds):
            path = Path(folder) / f"{name}.mp4"
            rng = np.random.default_rng(0)
            hum = 0.2 * np.sin(np.arange(seconds * RATE) / 30) + 0.03 * rng.standard_normal(seconds * RATE)
            write_mp4(path, frames, 30, hum.astype(np.float32), RATE, 30)
            del frames
            table(name, path, seconds)


def table(name: str, path: Path, seconds: int) -> None:
    exact = pictures(transcode_as(Case("ffv1 q=1"), path, seconds)[0])  # without loss
    made = {case: transcode_as(case, path, seconds) for case in CASES}
    times: dict[Case, list[float]] = {case: [] for case in CASES}
    chance = np.random.default_rng(0)
    for _ in range(ROUNDS):
        starts = chance.integers(0, round((seconds - WINDOW) * FPS), WINDOWS) / FPS
        for case, (content, _) in made.items():
            before = time.process_time()
            for start in starts:
                decode(content, float(start))
            times[case].append((time.process_time() - before) / WINDOWS)
    columns = (
        "picture",
        "sound",
        "decode, ms a window",
        "picture, kB/s",
        "sound, kB/s",
        "PSNR, dB",
        "pack, ms a second",
    )
    print(f"\n{name}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for case, (content, taken) in made.items():
        video, audio = sizes(content)
        words = f"{case.video}{', ' if case.note else ''}{case.note}"
        figures = [1e3 * statistics.median(times[case]), video / seconds / 1e3, audio / seconds / 1e3]
        figures += [psnr(exact, pictures(content)), 1e3 * taken / seconds]
        print(f"| {words} | {case.sound} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)


def transcode_as(case: Case, path: Path, seconds: int) -> tuple[bytes, float]:
    """A piece, and the CPU seconds that it took, decoding of the source among them."""
    original = packing._Picture._encoder

    def encoder(self: Any, width: int, height: int) -> Any:
        made = original(self, width, height)
        context = made if self.out is None else made.codec_context
        for key, value in case.changes:
            if key == "gop_size":
                context.gop_size = value
            else:
                made.options = {**made.options, key: value}
        return made

    packing._Picture._encoder = encoder  # type: ignore[method-assign]
    try:
        before = time.process_time()
        settings = replace(BASE, video=case.video, sound=case.sound)
        content = transcode(path, "video", 0, seconds * FPS, settings, 600).content
        return content, time.process_time() - before
    finally:
        packing._Picture._encoder = original  # type: ignore[method-assign]


def films(seconds: int) -> Iterator[tuple[str, np.ndarray]]:
    """Pictures of 640 x 360 at 30 frames a second: photographs under a moving camera, waves with grain as in the
    benchmark of decoding, a test pattern, a fractal, and cells, the worst that can come."""
    yield "photographs (zoom, pan, shake, grain; a cut every quarter)", photographs(seconds)
    yield "waves with grain (the film of `python -m bench decode`)", waves(seconds)
    yield "test pattern (testsrc2)", filtered(("testsrc2", "s=640x360:r=30"), seconds)
    yield "fractal (mandelbrot)", filtered(("mandelbrot", "s=640x360:r=30"), seconds)
    yield (
        "cells (life)",
        filtered(("life", "s=640x360:r=30:mold=10:death_color=#401010:life_color=#d0f0d0:seed=1"), seconds),
    )


def photographs(seconds: int) -> np.ndarray:
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(1)
    frames = np.empty((seconds * 30, 360, 640, 3), np.uint8)
    per = max(1, len(frames) // 4)
    for number in range(len(frames)):
        scene, t = number // per, number % per / per
        photo = photos[scene % len(photos)].astype(np.float32)
        height, width = photo.shape[:2]
        part = width * (0.5 + 0.35 * t if scene % 2 == 0 else 0.9 - 0.4 * t)
        left = (width - part) * (0.2 + 0.6 * t) + 1.5 * math.sin(number / 3.1)
        top = max(0.0, height - part * 9 / 16) * (0.5 + 0.3 * math.sin(3 * t)) + 1.5 * math.cos(number / 2.3)
        xs = np.clip(left + (np.arange(640) + 0.5) * part / 640 - 0.5, 0, width - 1.001)
        ys = np.clip(top + (np.arange(360) + 0.5) * part / 640 - 0.5, 0, height - 1.001)
        x, y = xs.astype(int), ys.astype(int)
        fx, fy = (xs - x)[None, :, None], (ys - y)[:, None, None]
        rows = photo[y] * (1 - fy) + photo[y + 1] * fy
        frames[number] = np.clip(
            rows[:, x] * (1 - fx) + rows[:, x + 1] * fx + rng.normal(0, 2.5, (360, 640, 1)), 0, 255
        )
    return frames


def waves(seconds: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:360, 0:640].astype(np.float32)
    frames = np.empty((seconds * 30, 360, 640, 3), np.uint8)
    for number in range(len(frames)):
        shift = 40 * number / 30
        wave = np.sin((x + shift) / 17) + np.sin((y - 0.7 * shift) / 23) + np.sin((x + y + shift) / 31)
        frames[number] = np.clip(127 + 35 * wave + rng.normal(0, 3, y.shape), 0, 255)[..., None] * np.array(
            [1, 0.8, 0.6]
        )
    return frames


def filtered(source: tuple[str, str], seconds: int) -> np.ndarray:
    graph = Graph()
    graph.threads = 1
    chain = [graph.add(*source), graph.add("format", "rgb24"), graph.add("buffersink")]
    chain[0].link_to(chain[1])
    chain[1].link_to(chain[2])
    graph.configure()
    return np.stack([graph.pull().to_ndarray() for _ in range(seconds * 30)])


def decode(content: bytes, start: float) -> None:
    """The planes and the sound of a window, in one pass, as a reader does at the least."""
    frames = 0
    with av.open(io.BytesIO(content), "r") as container:
        video: Any = container.streams.video[0]
        audio: Any = container.streams.audio[0]
        video.thread_count = audio.thread_count = 1
        container.seek(int(Fraction(start) / video.time_base), stream=video, backward=True)
        seen = heard = False
        for packet in container.demux(video, audio):
            for frame in packet.decode():
                if packet.stream_index == video.index:
                    if start - 1e-3 <= frame.time < start + WINDOW - 1e-3:
                        frames += 1
                        for plane in frame.planes:
                            np.frombuffer(plane, np.uint8).copy()
                    seen = frame.time > start + WINDOW - 1.5 / FPS
                else:
                    np.frombuffer(frame.planes[0], np.int16)
                    heard = frame.time > start + WINDOW
            if seen and heard:
                break
    assert frames == round(WINDOW * FPS), frames


def pictures(content: bytes) -> list[np.ndarray]:
    """All frames as limited-range planes, whatever the codec's range."""
    with av.open(io.BytesIO(content), "r") as container:
        found = []
        for frame in container.decode(video=0):
            full = frame.format.name == "yuvj420p"
            if full:
                frame = frame.reformat(format="yuv420p", src_color_range=2, dst_color_range=1)
            found.append(frame.to_ndarray())
        return found


def sizes(content: bytes) -> tuple[int, int]:
    """Bytes of the packets of picture and sound."""
    with av.open(io.BytesIO(content), "r") as container:
        totals = [0, 0]
        for packet in container.demux():
            totals[packet.stream_index] += packet.size
        return totals[0], totals[1]


def psnr(exact: list[np.ndarray], other: list[np.ndarray]) -> float:
    errors = [np.mean((one.astype(np.float32) - two) ** 2) for one, two in zip(exact, other, strict=True)]
    return 10 * math.log10(255**2 / max(1e-9, float(np.mean(errors))))


if __name__ == "__main__":
    main()
