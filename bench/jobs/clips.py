"""Clips of the built-in sample in a temporary folder, to be read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vatt.data import Clip, Source, Tokenizer, read_clips
from vatt.sample import build
from vatt.sample.writing import FPS, SECONDS, SIDE


@dataclass(frozen=True)
class Films:
    """Written clips, and a tokenizer of their captions."""

    manifest: Path
    clips: list[Clip]
    tokenizer: Tokenizer

    @property
    def source(self) -> Source:
        return Source("sample", self.clips)

    @property
    def words(self) -> str:
        return f"{len(self.clips)} files of {SECONDS:g} s, {SIDE} x {SIDE} at {FPS} frames/s, with sound and captions"


@contextmanager
def sample_films(count: int) -> Iterator[Films]:
    """Writes ``count`` clips, all for training; they are gone when the block ends. Seconds for some dozens."""
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        manifest = build(Path(folder) / "sample", train=count, val=0, say=lambda _: None)
        clips = read_clips(manifest).clips
        sentences = (caption.text for clip in clips for caption in clip.captions)
        yield Films(manifest, clips, Tokenizer.train(sentences))
