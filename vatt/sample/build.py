"""Builds the sample set: videos, captions and a manifest in one folder, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from vatt.sample.draw import frames_TSS3
from vatt.sample.encode import write_mp4
from vatt.sample.scene import Scene, scenes
from vatt.sample.sound import waveform
from vatt.sample.words import captions, srt

MANIFEST, STAMP = "manifest.csv", "sample.json"
FORMAT = 1  # goes up whenever the same parameters would give other files
TRAIN, VAL = 384, 96
SECONDS, FPS, SIDE, RATE, GOP = 4.0, 15, 112, 48000, 15


class SampleError(RuntimeError):
    """The sample set cannot be built. The message names the folder."""


def build(
    out: str | Path, *, seed: int = 0, train: int = TRAIN, val: int = VAL, workers: int | None = None
) -> Path:
    """Writes the sample set into ``out``, or leaves it as it is if it is there with these parameters.

    The files depend on ``seed``, ``train``, ``val`` and the versions of the libraries alone, not on ``workers``.

    Args:
        out: the folder; it is put there by one rename when all files are complete.
        workers: processes; None takes the cores of this machine.

    Returns:
        The path of ``manifest.csv``, whose rows name each video, its split and its attributes. The captions lie beside
        the videos as .srt files.

    Raises:
        SampleError: ``out`` holds something else, or cannot be written.
    """
    out = Path(out)
    stamp = {"format": FORMAT, "seed": seed, "train": train, "val": val}
    if min(train, val) < 0 or train + val == 0:
        raise SampleError(f"{out}: cannot build {train} training and {val} validation clips")
    if is_built(out, stamp):
        return out / MANIFEST
    if out.is_dir() and any(out.iterdir()):
        raise SampleError(f"{out}: is not empty and holds no sample set with {stamp}; remove it or choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partly = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise SampleError(f"{out}: cannot write here: {error}") from error
    try:
        _write_all(partly, scenes(train, val, seed), workers or os.cpu_count() or 1)
        (partly / STAMP).write_text(json.dumps(stamp))
        partly.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        partly.rename(out)
    except OSError as error:
        if is_built(out, stamp):  # another process was faster
            return out / MANIFEST
        raise SampleError(f"{out}: cannot write the sample set: {error}") from error
    finally:
        shutil.rmtree(partly, ignore_errors=True)
    return out / MANIFEST


def is_built(out: Path, stamp: dict[str, int]) -> bool:
    """Whether ``out`` holds a finished set with these parameters. The stamp is written last."""
    try:
        return json.loads((out / STAMP).read_text()) == stamp and (out / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def _write_all(folder: Path, chosen: list[Scene], workers: int) -> None:
    for split in sorted({scene.split for scene in chosen}):
        (folder / split).mkdir()
    if workers == 1:
        for scene in chosen:
            _write_one(folder, scene)
    else:  # spawn: the caller may be a training process with threads, which must not be forked
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_write_one, folder), chosen, chunksize=8))
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["video", *chosen[0].columns()])
        writer.writeheader()
        writer.writerows({"video": f"{scene.name}.mp4", **scene.columns()} for scene in chosen)


def _write_one(folder: Path, scene: Scene) -> None:
    frames = frames_TSS3(scene, round(SECONDS * FPS), FPS, SIDE)
    write_mp4(folder / f"{scene.name}.mp4", frames, FPS, waveform(scene, SECONDS, RATE), RATE, GOP)
    (folder / f"{scene.name}.srt").write_text(srt(captions(scene, SECONDS)), encoding="utf-8")
