"""Writes the clips of a sample set, each process its share: ``python -m vatt.sample.share FOLDER SEED TRAIN VAL I N``.

Plain child interpreters, not ``multiprocessing``: the caller may be a training process with threads, which must not be
forked, and a spawned child would first import all that the caller's script imports, or fail where there is no script.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vatt.sample.draw import frames_TSS3
from vatt.sample.encode import EncoderError, write_mp4
from vatt.sample.scene import Scene, scenes
from vatt.sample.sound import waveform
from vatt.sample.words import captions, srt

SECONDS, FPS, SIDE, RATE, GOP = 4.0, 15, 112, 48000, 15
_LEAST = 16  # clips that are worth a process


def write_shares(folder: Path, seed: int, train: int, val: int, workers: int | None) -> None:
    """Writes all clips into ``folder`` with up to ``workers`` processes (None: the cores this process may use).

    Raises:
        OSError: a file cannot be written, or a process ended early; the message names the file where it is known.
    """
    count = workers or min(len(os.sched_getaffinity(0)), max((train + val) // _LEAST, 1))
    if count == 1:
        write_share(folder, scenes(train, val, seed))
        return
    places = os.pathsep.join(place for place in sys.path if place)
    base = [sys.executable, "-m", __name__, *map(str, (folder, seed, train, val))]
    children = [
        subprocess.Popen(
            [*base, str(i), str(count)], stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": places}
        )
        for i in range(count)
    ]
    try:
        for child in children:
            _, message = child.communicate()
            if child.returncode:
                lines = message.strip().splitlines()
                raise OSError(lines[-1] if lines else f"a writing process ended with status {child.returncode}")
    finally:
        for child in children:  # after an error or Ctrl-C the others have nothing left to do
            child.kill()
            child.wait()


def write_share(folder: Path, chosen: list[Scene]) -> None:
    """Writes video and captions of the chosen scenes. Their folders must exist."""
    for scene in chosen:
        frames = frames_TSS3(scene, round(SECONDS * FPS), FPS, SIDE)
        write_mp4(folder / f"{scene.name}.mp4", frames, FPS, waveform(scene, SECONDS, RATE), RATE, GOP)
        (folder / f"{scene.name}.srt").write_text(srt(captions(scene, SECONDS)), encoding="utf-8")


def main() -> int:
    seed, train, val, index, count = map(int, sys.argv[2:])
    try:
        write_share(Path(sys.argv[1]), scenes(train, val, seed)[index::count])
    except (OSError, EncoderError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
