"""Builds the sample set: videos, captions and a manifest in one folder, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vatt.errors import UserError
from vatt.files import appearing_folder
from vatt.sample.encode import h264_encoder
from vatt.sample.scene import Scene, scenes
from vatt.sample.share import SECONDS, write_shares

MANIFEST, STAMP = "manifest.csv", "sample.json"
FORMAT = 6  # goes up whenever the same parameters would give other files
TRAIN, VAL = 384, 96


class SampleError(UserError, RuntimeError):
    """The sample set cannot be built. The message names the folder."""


def build(
    out: str | Path,
    *,
    seed: int = 0,
    train: int = TRAIN,
    val: int = VAL,
    workers: int | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Writes the sample set into ``out``, or leaves it as it is if it is there with these parameters.

    The files depend on ``seed``, ``train``, ``val`` and the versions of the libraries alone, not on ``workers``.

    Args:
        out: the folder; it is put there by one rename when all files are complete.
        workers: processes; None takes the cores that this process may use.
        say: called with the line that tells of a build or of reuse.

    Returns:
        The path of ``manifest.csv``, whose rows name each video, its split and its attributes. The captions lie beside
        the videos as .srt files.

    Raises:
        SampleError: ``out`` holds something else, or cannot be written (no permission, disk full).
        EncoderError: the FFmpeg of PyAV has no H.264 encoder.
    """
    out = Path(out)
    stamp = {"format": FORMAT, "seed": seed, "train": train, "val": val}
    if min(train, val) < 0 or train + val == 0:
        raise SampleError(f"{out}: cannot build {train} training and {val} validation clips")
    if is_built(out, stamp):
        say(f"sample set: {out} is there already, and is used as it is")
        return out / MANIFEST
    h264_encoder()
    if out.is_dir() and any(out.iterdir()):
        raise SampleError(f"{out}: is not empty and holds no sample set with {stamp}; remove it or name another folder")
    try:
        with ExitStack() as stack:
            try:
                partly = stack.enter_context(appearing_folder(out))
            except OSError as error:
                raise SampleError(f"{out}: cannot write here: {error}") from error
            say(f"sample set: writing {train + val} clips of {SECONDS:g} s to {out}")
            for split in ("train", "val"):
                (partly / split).mkdir()
            write_shares(partly, seed, train, val, workers)
            _write_manifest(partly, scenes(train, val, seed))
            (partly / STAMP).write_text(json.dumps(stamp))
    except OSError as error:
        if is_built(out, stamp):  # another process was faster
            return out / MANIFEST
        raise SampleError(f"{out}: cannot write the sample set: {error}") from error
    return out / MANIFEST


def is_built(out: Path, stamp: dict[str, int]) -> bool:
    """Whether ``out`` holds a finished set with these parameters. The stamp is written last."""
    try:
        return json.loads((out / STAMP).read_text()) == stamp and (out / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def _write_manifest(folder: Path, chosen: list[Scene]) -> None:
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["video", *chosen[0].columns()])
        writer.writeheader()
        writer.writerows({"video": f"{scene.name}.mp4", **scene.columns()} for scene in chosen)
