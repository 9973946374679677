"""Clips a second on one core: the loader's whole path against bare PyAV decoding of the same windows.

``python -m bench.decode [--clips N] [--out FILE.csv]``

Bare decoding opens the file, seeks to the same keyframe and decodes the frames and the sound of the window; nothing is
scaled, converted or resampled. Ours adds the crop, scaling to the model's size, RGB, colour changes, resampling,
noise and the words. The ratio says what our part costs. Both are timed in turn, several times, in one process.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from vatt.clip import InputConfig
from vatt.data.captions import Caption
from vatt.data.config import DataConfig
from vatt.data.manifest import Clip
from vatt.data.samples import PretrainReader
from vatt.data.tokenizer import Tokenizer
from vatt.sample.encode import write_mp4

# width, height, frames a second of the file, side of the model's picture
CASES = [(640, 360, 30, 224), (320, 240, 30, 224), (112, 112, 15, 64)]
SECONDS, GOP, RATE = 10.0, 30, 48000


def make_video(path: Path, width: int, height: int, fps: int) -> None:
    """A moving texture with some noise, as hard to decode as filmed material, and a rising tone."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    frames = np.empty((round(SECONDS * fps), height, width, 3), np.uint8)
    for number in range(len(frames)):
        shift = 40 * number / fps
        wave = np.sin((x + shift) / 17) + np.sin((y - 0.7 * shift) / 23) + np.sin((x + y + shift) / 31)
        grain = rng.normal(0, 3, (height, width))
        frames[number] = np.clip(127 + 35 * wave + grain, 0, 255)[..., None] * np.array([1, 0.8, 0.6])
    time_L = np.arange(round(SECONDS * RATE)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * (200 + 30 * time_L) * time_L)
    write_mp4(path, frames, fps, sound.astype(np.float32), RATE, GOP)


def bare(path: Path, start: float, spec: InputConfig) -> None:
    """Decodes the frames and the sound of one window and drops them."""
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            stream: Any = container.streams.get({kind: 0})[0]
            stream.thread_count = 1
            container.seek(int(start / stream.time_base), stream=stream, backward=True)
            frame: Any
            for frame in container.decode(stream):
                if frame.time >= start + spec.seconds:
                    break


def rate_of(work: Callable[[int], None], clips: int) -> float:
    """Clips a second of calling ``work`` with the numbers 0 to ``clips`` - 1."""
    began = time.perf_counter()
    for number in range(clips):
        work(number)
    return clips / (time.perf_counter() - began)


def measure(case: tuple[int, int, int, int], clips: int, rounds: int) -> dict[str, object]:
    """One row: medians over ``rounds`` of both rates and of their ratio."""
    width, height, fps, side = case
    spec, config = InputConfig(size=side), DataConfig()
    tokenizer = Tokenizer.train(["a rising tone over waves"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        make_video(path, width, height, fps)
        clip = Clip(path, captions=(Caption("a rising tone over waves", 0.0, SECONDS),))
        starts = np.random.default_rng(0).uniform(0, SECONDS - spec.seconds, clips)

        read = PretrainReader(tokenizer, spec, config)

        def ours(number: int) -> None:
            read(clip, np.random.default_rng(number))

        def theirs(number: int) -> None:
            bare(path, float(starts[number]), spec)

        rate_of(ours, 3), rate_of(theirs, 3)
        pairs = [(rate_of(ours, clips), rate_of(theirs, clips)) for _ in range(rounds)]
    return {
        "film": f"{width}x{height}@{fps}",
        "side": side,
        "clips_per_s": round(statistics.median(a for a, _ in pairs), 1),
        "bare_clips_per_s": round(statistics.median(b for _, b in pairs), 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "device": f"{_processor()} (1 thread)",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, av {av.__version__}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.decode", description=__doc__)
    parser.add_argument("--clips", type=int, default=30, help="clips a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the rows as CSV")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measure(case, options.clips, options.rounds) for case in CASES]
    print(f"{'film':>14}{'side':>6}{'ours, clips/s':>15}{'bare, clips/s':>15}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['film']:>14}{row['side']:>6}{row['clips_per_s']:>15}{row['bare_clips_per_s']:>15}{row['ratio']:>8}"
        )
    print(f"{rows[0]['device']}; {rows[0]['versions']}")
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
