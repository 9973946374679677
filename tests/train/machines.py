"""Data and machines for which `--config auto` chooses, without looking at any."""

from __future__ import annotations

import torch

from train.auto.facts import Facts
from vatt.data.survey import Survey

COUNTS = (2, 10, 40, 100, 768, 2000, 20_000, 1_000_000, 100_000_000)
MACHINES = {
    "laptop": dict(cores=2, memory=20 << 30, host=20 << 30),
    "one core": dict(cores=1, memory=3 << 30, host=3 << 30),
    "server": dict(cores=64, memory=200 << 30, host=200 << 30),
    "two ranks": dict(cores=1, ranks=2, memory=10 << 30, host=10 << 30),
    "small gpu": dict(device="cuda", device_name="NVIDIA GeForce GTX 1050", cores=8, memory=4 << 30, host=30 << 30),
    "one gpu": dict(device="cuda", device_name="NVIDIA A10", cores=12, memory=24 << 30, host=60 << 30),
    "eight gpus": dict(
        device="cuda", device_name="NVIDIA H100 80GB HBM3", cores=16, ranks=8, memory=80 << 30, host=100 << 30
    ),
    "three gpus": dict(device="cuda", device_name="unheard of", cores=4, ranks=3, memory=11 << 30, host=20 << 30),
    "cluster": dict(
        device="cuda", device_name="NVIDIA H100 80GB HBM3", cores=16, ranks=64, memory=80 << 30, host=100 << 30
    ),
}


def facts(clips, machine="laptop", seconds=10.0, named=None, **found):
    looked = min(clips, 48)
    known = dict(captioned=clips, captions=5.0, words=9.0, looked_at=looked, with_sound=looked, height=112, width=112)
    survey = Survey(clips, clips, seconds=(seconds,) * looked, **{**known, "reading": 0.01, **found})
    return Facts(("my_videos",), survey, named=named, **MACHINES[machine])


def rows(choices):
    return {choice.setting: choice for choice in choices}


def device_of(known):
    return torch.device(known.device)
