"""The built-in sample, for commands that are started without ``--data``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from train.core.ranks import RankContext, wait_for_all
from vatt.sample import build, build_pictures

SAMPLE = Path("runs/sample-clips")


def sample_manifest(context: RankContext, say: Callable[[str], object], pictures: bool = False) -> str:
    """The manifest of the sample, or that of its pictures. Rank 0 builds what is not there; the others wait.

    Raises:
        SampleError: on rank 0, it cannot be built; the message names the folder.
    """
    if context.first:
        say(f"sample: {SAMPLE} (built once, in under a minute)")
        build(SAMPLE, seed=0, say=say)
        if pictures:
            build_pictures(SAMPLE)
    wait_for_all()
    return str(SAMPLE / ("pictures.csv" if pictures else "manifest.csv"))
