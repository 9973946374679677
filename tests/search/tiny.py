"""A tiny index of small real files, made with a model of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.media import write
from tests.inference.library_models import media, save_model
from vatt.search import IndexJob, build_index

FILMS, SOUNDS = 4, 1


def make_films(folder: Path) -> Path:
    """Four films of 5 s with sound, a long one among them of 7 s in a folder of its own, and a sound of 4 s."""
    folder.mkdir(parents=True, exist_ok=True)
    media(folder, count=3, seconds=5.0)
    (inner,) = media(folder / "inner", count=1, seconds=7.0)
    inner.rename(inner.with_name("long.mp4"))
    sound = np.random.default_rng(9).uniform(-0.5, 0.5, 4 * 8000).astype(np.float32)
    write(folder / "noise.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le")
    (folder / "1.srt").write_text(
        "1\n00:00:00,000 --> 00:00:02,000\na red star\n\n2\n00:00:03,000 --> 00:00:05,000\n\x1b[31mspins\n"
    )
    return folder


def job(folder: Path, **options) -> IndexJob:
    """Indexes folder/"films" with folder/"model" to folder/"index"; windows of 2 s, every second."""
    found = {"source": folder / "films", "model": folder / "model", "out": folder / "index", "workers": 0}
    return IndexJob(**{**found, **options})


def make_index(folder: Path, **options) -> Path:
    """Model, films and index in ``folder``; the path of the index."""
    if not (folder / "model").exists():
        save_model(folder / "model")
    if not (folder / "films").exists():
        make_films(folder / "films")
    build_index(job(folder, **options))
    return folder / "index"
