"""Reading on one core (``decode``): our readers, from files and from shards, beside the reader of before, bare decoding
and other decoders, all in turns on the same windows.

What readers share is not timed: opening modules, the tokenizer. CPU time (`time.process_time`, all threads) decides,
because it says how many clips a second a core gives also where others use the machine; time on the clock stands beside.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from bench.baselines import decoders, package_version
from bench.baselines.reader import read as read_as_before
from bench.jobs.case import Row, case
from bench.jobs.options import Options
from bench.measure.timing import summarise
from vatt.clip import InputConfig
from vatt.data import DataConfig, Tokenizer, read_clips
from vatt.data.captions import Caption
from vatt.data.samples import PretrainReader
from vatt.kernels import clips_from_planes
from vatt.kernels.timing import reason
from vatt.process import Message, ProcessFailed
from vatt.sample.encode import X264, write_mp4

BEFORE, BARE, BARE_TWICE = "reader of 2752fc6", "bare PyAV", "bare PyAV, two opens"
FILES, FILES_PLANES = "ours, files", "ours, files, for augment_on=gpu"
SHARDS, SHARDS_PLANES = "ours, shards", "ours, shards, for augment_on=gpu"
# Clips a second at least, as a ratio to those of another subject: of the film that `Film.aims`, those to bare decoding
# of all films. Bare decoding is what it was when the targets were set: each stream from an open of its own.
TARGETS = {(FILES, BEFORE): 1.15, (SHARDS, BEFORE): 3.5, (SHARDS_PLANES, BEFORE): 6.0, (FILES, BARE_TWICE): 0.9}
ROUNDS, WORDS = 7, "a rising tone over waves"
LENGTH, GOP, RATE = 10.0, 30, 48000  # of a film: seconds, frames from keyframe to keyframe, samples a second

Read = Callable[[int], Any]  # reads the window of that number


@dataclass(frozen=True)
class Film:
    """A film that is written, the side of the model's picture, windows a round, and whether the targets are of it.
    ``b_frames``: three between two others, as most films have them; else x264 decides, which finds few in noise."""

    width: int
    height: int
    fps: int
    side: int
    windows: int = 12
    aims: bool = False
    b_frames: bool = False

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}@{self.fps} to {self.side}{', B frames' if self.b_frames else ''}"


FILMS = (
    Film(640, 360, 30, 224, aims=True),
    Film(320, 240, 30, 224),
    Film(112, 112, 15, 64),
    Film(640, 360, 30, 224, b_frames=True),
    Film(1920, 1080, 30, 224, windows=2, b_frames=True),
)


def decode(options: Options) -> Iterator[Message]:
    """Rows of all subjects for each film; the notes have their ratios, and whether a target is met."""
    torch.set_num_threads(1)
    for film in FILMS[2:3] if options.tiny else FILMS:
        shape = f"{LENGTH:g} s of {film.width} x {film.height} at {film.fps} frames/s, H.264 and AAC"
        about = case(options, "decode", film.name, mode="read", provider="all", shape=shape, dtype="uint8", select={})
        yield {"begin": about}
        with tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder, one_core():
            path = Path(folder) / "film" / "film.mp4"
            path.parent.mkdir()
            make_video(path, film)
            for row in compare(film, path, *((2, 2) if options.tiny else (film.windows, ROUNDS))):
                yield {"done": {**about, **row}}


@contextmanager
def one_core() -> Iterator[None]:
    """This process runs on one core, whatever threads it starts."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def compare(film: Film, path: Path, windows: int, rounds: int) -> Iterator[Row]:
    """Times all subjects in turns, each round in another order; a row each. One that cannot run says why."""
    spec = InputConfig(size=film.side)
    last = round((LENGTH - spec.seconds) * spec.fps)
    starts = [int(k) / spec.fps for k in np.random.default_rng(0).integers(0, last + 1, windows)]
    reads: dict[str, Read] = {}
    for name, make in subjects(film, path, spec, starts).items():
        try:
            read = make()
            read(0)  # opens what is opened once
        except Exception as failure:  # not installed, refused: a row says so
            yield {"provider": name, "note": reason(failure)}
            continue
        reads[name] = read
    used: dict[str, list[float]] = {name: [] for name in reads}
    clock: dict[str, list[float]] = {name: [] for name in reads}
    for number in range(rounds):
        names = list(reads)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began, cpu = time.perf_counter(), time.process_time()
            for window in range(windows):
                reads[name](window)
            used[name].append(1e3 * (time.process_time() - cpu) / windows)
            clock[name].append(1e3 * (time.perf_counter() - began) / windows)
    for name in reads:
        timing = summarise(clock[name], used[name])
        note = (
            f"{'; '.join(verdicts(name, used, film.aims))}; {rounds} rounds of {windows} windows in turns, one core; "
        )
        note += package_version(name) or f"av {av.__version__}"
        row: Row = dict(timing.figures, rate=1e3 / timing.host, unit="clips/s", note=note.removeprefix("; "))
        yield {"provider": name, "error": _distance(name, reads, windows, film.side), **row}


def verdicts(name: str, used: Mapping[str, list[float]], aims: bool) -> Iterator[str]:
    """In words, the clips/s of a subject as ratios to those of others, by CPU time: the median over the rounds with its
    20th and 80th percentile; and whether it reaches its targets."""
    for other in (BEFORE, BARE, BARE_TWICE):
        if name == other or other not in used:
            continue
        ratio = summarise([b / a for a, b in zip(used[name], used[other], strict=True)], [0.0])
        words = f"{ratio.median:.4g}x {other} ({ratio.p20:.3g} to {ratio.p80:.3g})"
        if least := TARGETS.get((name, other)) if aims or other == BARE_TWICE else None:
            words += f", target {least:g} {'met' if ratio.median >= least else 'MISSED'}"
        yield words


_VERDICT = re.compile(r"(?P<ratio>\S+)x (?P<other>.+?) \((?P<spread>.+?)\)(, target (?P<target>.+))?")


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown of rows of decode: what a clip costs a core, clips/s as ratios to `BEFORE` and to bare decoding."""
    lines = [f"| film, to | read by | CPU ms a clip | clips/s a core | times {BEFORE} | times bare PyAV |"]
    lines.append("|" + "---|" * 6)
    for row in rows:
        if row["op"] != "decode":
            continue
        cells = [row["case"], row["provider"], row["note"], "", "", ""]
        if row.get("rate"):
            found = {v["other"]: v for words in row["note"].split("; ") if (v := _VERDICT.fullmatch(words))}
            cells[2:4] = f"{float(row['host_ms']):.1f}", f"{float(row['rate']):.1f}"
            for place, other in ((4, BEFORE), (5, BARE_TWICE)):
                if v := found.get(other):
                    wanted = f", target {v['target']}" if v["target"] else ""
                    cells[place] = f"{v['ratio']} ({v['spread']}){wanted}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def subjects(film: Film, path: Path, spec: InputConfig, starts: list[float]) -> dict[str, Callable[[], Read]]:
    """What makes the function that reads a window, for each subject; calling it may fail."""
    captions, tokenizer = (Caption(WORDS, 0.0, LENGTH),), Tokenizer.train([WORDS])
    path.with_suffix(".srt").write_text(f"1\n00:00:00,000 --> 00:00:{LENGTH:02.0f},000\n{WORDS}\n")

    def before() -> Read:
        return lambda window: read_as_before(path, starts[window], captions, tokenizer, spec, window)

    def ours(shards: bool, **options: Any) -> Read:
        clip = read_clips(packed() if shards else path.parent).clips[0]
        read = PretrainReader(tokenizer, spec, DataConfig(), **options)
        clips = [replace(clip, start=start, end=start + spec.seconds) for start in starts]  # no other window fits
        out = read(clips[0], np.random.default_rng(0))  # written again and again, as slots of a loader are
        return lambda window: read(clips[window], np.random.default_rng(window), out)

    def packed() -> Path:
        if not (out := path.parent.parent / "shards").exists():
            command = [sys.executable, "-m", "vatt", "data", "pack", str(path.parent), "--out", str(out)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ProcessFailed(f"vatt data pack: {done.stderr.strip().rpartition(chr(10))[2] or done.returncode}")
        return out

    def other(make: Callable[..., decoders.Decode], *given: Any) -> Read:
        decode = make(path, spec, *given)
        return lambda window: decode(starts[window])

    return {
        BEFORE: before,
        FILES: partial(ours, False),
        FILES_PLANES: partial(ours, False, augment_on="gpu"),
        SHARDS: partial(ours, True),
        SHARDS_PLANES: partial(ours, True, augment_on="gpu"),
        BARE: partial(other, decoders.pyav, [("video", "audio")]),
        BARE_TWICE: partial(other, decoders.pyav, [("video",), ("audio",)]),
        "decord2": partial(other, decoders.decord2, film.fps),
        "torchcodec": partial(other, decoders.torchcodec, film.fps),
    }


def _distance(name: str, reads: Mapping[str, Read], windows: int, size: int) -> float | None:
    """||pictures - those of `BEFORE`|| / ||those of `BEFORE`||, where a subject gives pictures of the same crops."""
    if BEFORE not in reads or not (name.startswith("ours") or name == BEFORE):
        return None
    squares = np.zeros(2)
    for window in range(windows):
        sample, expected = reads[name](window), reads[BEFORE](window)["video"].float()
        if (video := sample.get("video")) is None:  # left to the operation that follows on a GPU
            planes = (sample[part][None] for part in ("planes", "sizes", "crop", "flip", "colour"))
            video = clips_from_planes(*planes, size=size)[0]
        squares += [(video.float() - expected).square().sum().item(), expected.square().sum().item()]
    return float(np.sqrt(squares[0] / squares[1]))


def make_video(path: Path, film: Film) -> None:
    """A moving texture with some noise, as hard to decode as filmed material, and a rising tone."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : film.height, 0 : film.width].astype(np.float32)
    frames = np.empty((round(LENGTH * film.fps), film.height, film.width, 3), np.uint8)
    for number in range(len(frames)):
        shift = 40 * number / film.fps
        wave = np.sin((x + shift) / 17) + np.sin((y - 0.7 * shift) / 23) + np.sin((x + y + shift) / 31)
        grain = rng.normal(0, 3, (film.height, film.width))
        frames[number] = np.clip(127 + 35 * wave + grain, 0, 255)[..., None] * np.array([1, 0.8, 0.6])
    time_L = np.arange(round(LENGTH * RATE)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * (200 + 30 * time_L) * time_L)
    more = ":bframes=3:b-adapt=0:scenecut=0" if film.b_frames else ""  # or x264 takes noise for cuts
    write_mp4(path, frames, film.fps, sound.astype(np.float32), RATE, GOP, x264=X264 + more)
