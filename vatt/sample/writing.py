"""Writes a sample set: videos, captions and a manifest in one folder, whole or not at all; and its pictures."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from vatt import signals
from vatt.errors import UserError
from vatt.files import appearing, appearing_folder, write_text
from vatt.json_files import read_json
from vatt.sample.draw import frames_TSS3
from vatt.sample.encode import EncoderError, h264_encoder, write_mp4
from vatt.sample.scene import SETS, SampleSet, Scene, scenes
from vatt.sample.sound import waveform
from vatt.sample.words import captions, srt

MANIFEST, PICTURES, STAMP, SUMS = "manifest.csv", "pictures.csv", "sample.json", "sums.json"
_BEGAN = "began.json"  # in the hidden folder of a build that can go on
DEFAULT = SETS["default"]
FORMAT, TRAIN, VAL, FPS = DEFAULT.format, DEFAULT.train, DEFAULT.val, DEFAULT.fps
SECONDS, SIDE, RATE = 4.0, 112, 48000
_LEAST = 16  # clips that are worth a process
_TOLD_EVERY = 15.0  # seconds between two lines of how far a set is that takes minutes
Tell = Callable[[int, int], object]

logger = logging.getLogger(__name__)


class SampleError(UserError, RuntimeError):
    """The sample set cannot be built. The message names the folder."""


def build(
    out: str | Path,
    *,
    name: str = "default",
    seed: int = 0,
    train: int | None = None,
    val: int | None = None,
    workers: int | None = None,
    say: Callable[[str], object] = logger.info,
    tell: Tell | None = None,
) -> Path:
    """Writes a sample set into ``out``, or leaves one with these parameters as it is.

    The files depend on ``name``, ``seed``, ``train``, ``val`` and the versions of the libraries alone, not on
    ``workers``. The default set takes under a minute, and nothing is left of a build that was stopped. The large one
    takes minutes: a build that was stopped goes on where it was, from a hidden folder beside ``out``.

    Args:
        out: the folder; it is put there by one rename when all files are complete.
        name: a key of `vatt.sample.scene.SETS`.
        train, val: clips; None takes as many as the set has.
        workers: processes; None takes the cores that this process may use.
        say: called with a line that says whether the set is written or reused, and now and then how far it is.
        tell: called now and then with the clips that are written and their number, in place of those lines.

    Returns:
        The path of ``manifest.csv``, whose rows name each video, its split and its attributes. The captions lie beside
        the videos as .srt files.

    Raises:
        SampleError: ``out`` holds something else, is being written by another process, or cannot be written (no
            permission, disk full). EncoderError: the FFmpeg of PyAV has no H.264 encoder.
    """
    out, of = Path(out), SETS[name]
    train, val = of.train if train is None else train, of.val if val is None else val
    stamp: dict[str, Any] = {"format": of.format, "seed": seed, "train": train, "val": val}
    if of is not DEFAULT:
        stamp = {"set": name, **stamp}
    if min(train, val) < 0 or train + val == 0:
        raise SampleError(f"{out}: cannot build {train} training and {val} validation clips")
    if is_built(out, stamp):
        check_unchanged(out)
        say(f"sample set: {out} is there already, and is used as it is")
        return out / MANIFEST
    h264_encoder()
    if out.is_dir() and any(out.iterdir()):
        raise SampleError(f"{out}: is not empty and holds no sample set with {stamp}; remove it or name another folder")
    chosen = scenes(train, val, seed, of)
    try:
        with ExitStack() as stack:
            try:
                folder = _resumed_folder(out, stamp) if of.goes_on else appearing_folder(out)
                partly = stack.enter_context(folder)
            except OSError as error:
                raise SampleError(f"{out}: cannot write here: {error}") from error
            for split in ("train", "val"):
                (partly / split).mkdir(exist_ok=True)
            there = _written(partly)
            goes_on = f", of which {there} are there from an earlier build" if there else ""
            say(f"sample set: writing {train + val} clips of {SECONDS:g} s to {out}{goes_on}")
            stack.enter_context(_telling(partly, train + val, tell or _lines(say)))
            _write_shares(partly, of, seed, chosen, workers)
            _write_manifest(partly, chosen)
            (partly / SUMS).write_text(json.dumps(_sums(partly)), encoding="utf-8")
            (partly / STAMP).write_text(json.dumps(stamp))
    except OSError as error:
        if is_built(out, stamp):  # another process was faster
            return out / MANIFEST
        raise SampleError(f"{out}: cannot write the sample set: {error}") from error
    return out / MANIFEST


@contextmanager
def _resumed_folder(out: Path, stamp: dict[str, Any]) -> Iterator[Path]:
    """As `appearing_folder`, but what was written stays if the block fails, and the next build with this ``stamp``, and
    the same libraries, finds it.

    Raises:
        SampleError: another process is writing there.
    """
    out = out.resolve()
    partly = out.with_name(f".{out.name}.partly")
    partly.mkdir(parents=True, exist_ok=True)
    began = {**stamp, "av": av.__version__, "numpy": np.__version__}
    lock = os.open(partly, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SampleError(f"{out}: another process is writing this set; wait until it is done") from error
        note = partly / _BEGAN
        try:
            goes_on = read_json(note, dict) == began
        except (OSError, ValueError):
            goes_on = False
        if not goes_on:
            for entry in partly.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_text(note, json.dumps(began))
        yield partly
        note.unlink()
        os.replace(partly, out)
    finally:
        os.close(lock)


def _written(folder: Path) -> int:
    """Clips that are complete in a folder that is being written."""
    return sum(1 for video in folder.glob("*/*.mp4") if not video.name.startswith("."))


@contextmanager
def _telling(folder: Path, total: int, tell: Tell) -> Iterator[None]:
    """Calls ``tell`` every second while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            tell(_written(folder), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _lines(say: Callable[[str], object]) -> Tell:
    """Says now and then how far a set is, and how long the rest takes."""
    began, first, told = time.monotonic(), None, time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal first, told
        first = done if first is None else first
        now = time.monotonic()
        if now - told < _TOLD_EVERY:
            return
        told = now
        left = f", {(total - done) * (now - began) / (done - first):.0f} s left" if done > first else ""
        say(f"sample set: {done} of {total} clips{left}")

    return tell


def is_built(out: Path, stamp: dict[str, Any]) -> bool:
    """Whether ``out`` holds a finished set with these parameters. The stamp is written last."""
    try:
        return json.loads((out / STAMP).read_text()) == stamp and (out / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, int]:
    """The checksum of each clip, of its captions and of the manifest, by name."""
    files = [folder / MANIFEST, *sorted(folder.glob("*/*.mp4")), *sorted(folder.glob("*/*.srt"))]
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}


def check_unchanged(out: Path) -> None:
    """Raises SampleError: a file is not what was written, so results on it mean other things. A set of the time before
    there were sums is taken as it is."""
    try:
        written = read_json(out / SUMS, dict)
    except FileNotFoundError:
        return
    found = _sums(out)
    changed = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    if changed:
        some = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise SampleError(f"{out}: {some}: changed since it was written; remove the folder, and it is written anew")


def _write_manifest(folder: Path, chosen: list[Scene]) -> None:
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["video", *chosen[0].columns()])
        writer.writeheader()
        writer.writerows({"video": f"{scene.name}.mp4", **scene.columns()} for scene in chosen)


def _write_shares(folder: Path, of: SampleSet, seed: int, chosen: list[Scene], workers: int | None) -> None:
    """Writes all clips into ``folder`` with up to ``workers`` processes (None: the cores this process may use).

    Raises:
        OSError: a file cannot be written, or a process ended early; the message names the file where it is known.
    """
    count = workers or min(len(os.sched_getaffinity(0)), max(len(chosen) // _LEAST, 1))
    if count == 1:
        _write_share(folder, of, chosen)
        return
    # Plain child interpreters, not multiprocessing: the caller may be a training process with threads, which must not
    # be forked, and a spawned child would first import all that the caller's script imports, or fail without a script.
    command = [
        sys.executable,
        "-c",
        f"import sys; from {__name__} import child_main; sys.exit(child_main(*sys.argv[1:]))",
    ]
    train = sum(scene.split == "train" for scene in chosen)
    command += map(str, (folder, of.name, seed, train, len(chosen) - train))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    children = [
        subprocess.Popen(
            [*command, str(i), str(count)],
            stdin=subprocess.PIPE,  # whose end tells a child that this process has gone, however that went
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(count)
    ]
    try:
        for child in children:
            assert child.stderr is not None
            message = child.stderr.read()
            if child.wait():
                lines = message.strip().splitlines()
                raise OSError(lines[-1] if lines else f"a writing process ended with status {child.returncode}")
    finally:
        for child in children:  # after an error or Ctrl-C the others have nothing left to do
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stderr):
                if pipe is not None:
                    pipe.close()


def _write_share(folder: Path, of: SampleSet, chosen: list[Scene]) -> None:
    """Writes video and captions of the chosen scenes that are not there yet. Their folders must exist."""
    for scene in chosen:
        video = folder / f"{scene.name}.mp4"
        if video.exists():
            continue
        (folder / f"{scene.name}.srt").write_text(srt(captions(scene, SECONDS)), encoding="utf-8")
        frames = frames_TSS3(scene, round(SECONDS * of.fps), of.fps, SIDE)
        sound = waveform(scene, SECONDS, RATE)
        # last: a clip whose video is there is complete
        with appearing(video) if of.goes_on else nullcontext(video) as path:
            write_mp4(path, frames, of.fps, sound, RATE, of.fps, **of.files)


def child_main(folder: str, name: str, *numbers: str) -> int:
    """A child of `_write_shares`: writes share ``index`` of ``count``. The exit status; the reason on stderr.

    It ends with the process that has started it. What a terminal sends to both is left to that one.
    """
    for ending in signals.ENDING:
        signal.signal(ending, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    seed, train, val, index, count = map(int, numbers)
    try:
        _write_share(Path(folder), SETS[name], scenes(train, val, seed, SETS[name])[index::count])
    except (OSError, EncoderError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is written to its standard input
    os._exit(1)


def build_pictures(sample: str | Path) -> Path:
    """Writes a picture of each clip, its middle frame, into the folder of a sample set, or leaves them as they are.

    Fine-tuning on images reads them, and they are a control: shape and colour can be told from one frame, the motion
    cannot.

    Returns:
        The path of ``pictures.csv``: as the manifest of the clips, with the column image in place of video.

    Raises:
        SampleError: the folder holds no sample set, a clip cannot be read, or the folder cannot be written.
    """
    sample = Path(sample)
    out = sample / PICTURES
    if out.is_file():  # written last
        return out
    try:
        with (sample / MANIFEST).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with appearing_folder(sample / "pictures", replace=True) as folder:
            for row in rows:
                picture = Path(row.pop("video")).with_suffix(".png")
                _middle_frame(sample / picture.with_suffix(".mp4"), folder / picture)
                row["image"] = f"pictures/{picture.as_posix()}"
        with appearing(out) as partly, partly.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", *(key for key in rows[0] if key != "image")])
            writer.writeheader()
            writer.writerows(rows)
    except (OSError, KeyError, IndexError, av.error.FFmpegError) as error:
        if out.is_file():  # another process was faster
            return out
        raise SampleError(f"{sample}: cannot write the pictures of the sample set: {error}") from error
    return out


def _middle_frame(video: Path, picture: Path) -> None:
    """The frame in the middle of a clip as a .png file."""
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    frame = frames[len(frames) // 2].reformat(format="rgb24")
    frame.pts = None
    picture.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(picture), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "rgb24"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
