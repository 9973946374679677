"""A tiny index of small real files, made with a model of random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.data.media import write
from tests.inference.library_models import save_model
from vatt.search import IndexJob, build_index


def make_films(folder: Path) -> Path:
    """Three films of 5 s with sound, captions beside one of them, a film of 7 s in a folder of its own, and a sound of
    4 s; each of coloured blocks and noise of its own, which even a model of random weights tells apart."""
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    for number, (name, seconds) in enumerate((("0.mp4", 5), ("1.mp4", 5), ("2.mp4", 5), ("inner/long.mp4", 7))):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 255, (seconds * 4, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        sound = rng.uniform(-0.5, 0.5, seconds * 8000).astype(np.float32)
        write(folder / name, frames, fps=4, sound=sound, rate=8000)
    sound = np.random.default_rng(9).uniform(-0.5, 0.5, 4 * 8000).astype(np.float32)
    write(folder / "noise.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le")
    (folder / "1.srt").write_text(
        "1\n00:00:00,000 --> 00:00:02,000\na red star\n\n2\n00:00:03,000 --> 00:00:05,000\nspins\n"
    )
    return folder


def job(folder: Path, **options) -> IndexJob:
    """Indexes folder/"films" with folder/"model" to folder/"index"; windows of 2 s, every second."""
    found = {"source": folder / "films", "model": folder / "model", "out": folder / "index", "workers": 0}
    return IndexJob(**{**found, **options})


def copied(made: Path, into: Path) -> Path:
    """Films and index of ``made`` in ``into``, with the times of their files, for a test to change."""
    for name in ("films", "index"):
        shutil.copytree(made / name, into / name)
    (into / "model").symlink_to(made / "model")
    return into


def make_index(folder: Path, **options) -> Path:
    """Model, films and index in ``folder``; the path of the index."""
    if not (folder / "model").exists():
        save_model(folder / "model")
    if not (folder / "films").exists():
        make_films(folder / "films")
    build_index(job(folder, **options))
    return folder / "index"
