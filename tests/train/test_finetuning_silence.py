"""Silence among the clips of a classifier of sounds: it may have a label, so it is trained on, and counted."""

from __future__ import annotations

import numpy as np

from tests.data.media import click_at, write
from train.core.data import Corpus
from train.finetuning.build import silence
from vatt.clip import InputConfig
from vatt.data import Clip, Source


def test_silent_clips_are_counted(tmp_path):
    sounds = {"silent": np.zeros(16000, np.float32), "click": click_at(1.0, 2.0, 8000)}
    clips = [
        Clip(write(tmp_path / f"{name}.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le"), kind="audio")
        for name, sound in sounds.items()
    ]
    spec = InputConfig(frames=16, fps=10, sample_rate=8000)
    (note,) = silence(Corpus([Source("a", clips)]), spec)
    assert note.startswith("1 of 2 clips that were listened to are silence")
    assert silence(Corpus([Source("a", clips[1:])]), spec) == []
