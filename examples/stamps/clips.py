"""Makes video clips from the stamps of Tux Paint: cut-out pictures that move, with their sounds and words.

Debian's package tuxpaint-stamps-default has 538 pictures of things with a transparent ground, a sentence for each,
and a sound for a hundred of them. A clip shows one stamp in one of eight motions, with a background, a size and a place
of its own. Its sentence names both ("A crow bounces."); its sound is the stamp's, at a loudness and a time of its own.
Clips of a stamp without a sound have none, as is common in real collections.

Three splits: train; val, known stamps in motions that training does not show of them; test, stamps that training does
not show at all.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np

from vatt.errors import UserError, printable
from vatt.files import appearing_folder
from vatt.sample.encode import write_mp4

STAMPS = Path("/usr/share/tuxpaint/stamps")
SECONDS, FPS, SIDE, RATE = 4.0, 15, 128, 48000
MOTIONS = {
    "left": "slides to the left",
    "right": "slides to the right",
    "rise": "rises",
    "fall": "falls",
    "bounce": "bounces",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
}
KEPT_BACK = 2  # motions of each stamp that training does not show
UNKNOWN = 0.1  # share of the stamps that training does not show at all
SILENT = 1e-4  # peak of a sound below which it is none
COLUMNS = ("video", "caption", "split", "category", "stamp", "motion", "sound")


class StampsError(UserError, ValueError):
    """The stamps are not there, or the folder of the clips holds something else."""


@dataclass(frozen=True)
class Stamp:
    """A picture with what belongs to it.

    Attributes:
        name: its path below the folder of all stamps, without the ending, such as animals/birds/crow.
        words: what it shows, as the beginning of a sentence.
        sound: its sound file, or None.
        sounds_like: the name of the first stamp with the same sound ("" without one): giraffe and iguana share theirs.
    """

    name: str
    picture: Path
    words: str
    sound: Path | None = None
    sounds_like: str = ""


@dataclass(frozen=True)
class Planned:
    """A clip that is to be made."""

    stamp: Stamp
    motion: str
    split: str
    number: int

    @property
    def row(self) -> dict[str, str]:
        """Its row of the manifest."""
        return {
            "video": f"{self.split}/{self.number:04d}.mp4",
            "caption": f"{self.stamp.words} {MOTIONS[self.motion]}.",
            "split": self.split,
            "category": self.stamp.name.split("/")[0],
            "stamp": self.stamp.name,
            "motion": self.motion,
            "sound": self.stamp.sounds_like,
        }


def find_stamps(root: Path) -> list[Stamp]:
    """All stamps of things, in the order of their names. Letters, numbers and coins (symbols/) are left out.

    Raises:
        StampsError: there are none; the message says what to install.
    """
    found, first_with = [], dict[int, str]()
    for picture in sorted(root.rglob("*.png")):
        name = picture.relative_to(root).with_suffix("").as_posix()
        if name.startswith("symbols/") or re.search(r"_(mirror|flip)$", name):  # the same thing drawn for the other way
            continue
        sound = next((path for end in (".ogg", ".wav") if (path := picture.with_suffix(end)).is_file()), None)
        heard = None if sound is None else read_sound(sound)
        if heard is None or len(heard) == 0 or np.abs(heard).max() < SILENT:  # one of them is nothing but silence
            found.append(Stamp(name, picture, words_of(picture)))
        else:
            alike = first_with.setdefault(zlib.crc32(heard.tobytes()), name)
            found.append(Stamp(name, picture, words_of(picture), sound, alike))
    if not found:
        how = "apt-get install tuxpaint-stamps-default, or name their folder by --stamps DIR"
        raise StampsError(f"{root}: holds no stamps; {how}")
    return found


def words_of(picture: Path) -> str:
    """What a stamp shows: the first sentence of its description, in English, or its file's name where that is long."""
    description = picture.with_suffix(".txt")
    lines = description.read_text(encoding="utf-8", errors="replace").splitlines() if description.is_file() else []
    sentence = re.split(r"[.!?—,;]", re.sub(r"\(.*?\)", "", lines[0] if lines else ""))[0].strip(' –“”"')
    if not 0 < len(sentence.split()) <= 8:
        return "A " + re.sub(r"[^a-zA-Z]+", " ", picture.stem).strip().lower()
    return sentence


def plan(stamps: list[Stamp], with_sound: int, silent: int, seed: int) -> list[Planned]:
    """The clips: ``with_sound`` for training of each stamp that sounds, ``silent`` of each other, and those held out.

    Of each known stamp training shows some motions and val the others; of one without a sound val has half as many.
    """
    rng = np.random.default_rng([seed, 1])
    planned: list[Planned] = []

    def add(stamp: Stamp, motions: list[str], split: str) -> None:
        first = len(planned)
        planned.extend([Planned(stamp, motion, split, first + n) for n, motion in enumerate(motions)])

    for sounding, count in ((True, with_sound), (False, silent)):
        some = [stamp for stamp in stamps if bool(stamp.sound) is sounding]
        alike = sorted({stamp.sounds_like or stamp.name for stamp in some})  # an unknown stamp has an unknown sound
        unknown = set(rng.permutation(alike)[: round(UNKNOWN * len(alike))].tolist())
        for number, stamp in enumerate(some):
            motions = rng.permutation(list(MOTIONS)).tolist()
            others, shown = motions[:KEPT_BACK], motions[KEPT_BACK:]
            if (stamp.sounds_like or stamp.name) in unknown:
                add(stamp, motions[: 4 if sounding else 1], "test")
                continue
            add(stamp, [shown[n % len(shown)] for n in range(count)], "train")
            if count and (sounding or number % 4 == 0):
                add(stamp, others, "val")
    return planned


def read_picture(path: Path, longest: int) -> np.ndarray:
    """A picture with its longer side of ``longest`` pixels, float32 (H, W, 4): colours times opacity, and opacity."""
    with av.open(str(path)) as container:
        rgba = next(container.decode(video=0)).to_ndarray(format="rgba")
    rows, columns = (np.flatnonzero(rgba[..., 3].max(axis)) for axis in (1, 0))
    if len(rows):
        rgba = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rgba[..., :3] = (rgba[..., :3] * (rgba[..., 3:] / 255.0)).astype(np.uint8)
    height, width = (max(2, round(side * longest / max(rgba.shape[:2]))) for side in rgba.shape[:2])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba), format="rgba")
    return frame.reformat(width, height, interpolation="AREA").to_ndarray(format="rgba").astype(np.float32)


def read_sound(path: Path) -> np.ndarray:
    """A sound file as it is, mono float32 at RATE."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        frames = [*container.decode(audio=0), None]  # None: what the resampler still holds
        return np.concatenate([part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)])


def background(rng: np.random.Generator) -> np.ndarray:
    """A ground of a few colours, in patches or flowing into each other, float32 (2 SIDE, 2 SIDE, 3)."""
    cells = int(rng.choice([1, 2, 3, 6, 12]))
    tone = rng.uniform(60, 190) + rng.uniform(-25, 25, 3)  # muted: what stands out in a picture is the thing
    colours = (tone + rng.uniform(-30, 30, (cells, cells, 3))).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colours.repeat(4, 0).repeat(4, 1)), format="rgb24")
    way = str(rng.choice(["POINT", "BILINEAR", "BICUBIC"]))
    return frame.reformat(2 * SIDE, 2 * SIDE, interpolation=way).to_ndarray(format="rgb24").astype(np.float32)


def path_of(motion: str, rng: np.random.Generator) -> Iterator[tuple[float, float, float, float]]:
    """Of each frame the place (x and y; between -1 and 1 the stamp is whole in the picture), scale, and angle."""
    x, y = rng.uniform(-1, 1, 2)
    tilt, reach, turn = rng.uniform(-0.2, 0.2), rng.uniform(0.6, 1.2), rng.choice([-1, 1])
    pace = rng.uniform(0.4, 0.9)  # turns or jumps a second
    for time in np.arange(round(SECONDS * FPS)) / FPS:
        way = reach * (2 * time / SECONDS - 1)  # from -reach to reach
        swing = abs(np.sin(np.pi * pace * time))
        yield {
            "left": (-way, y, 1.0, tilt),
            "right": (way, y, 1.0, tilt),
            "rise": (x, -way, 1.0, tilt),
            "fall": (x, way, 1.0, tilt),
            "bounce": (x, 1 - 1.4 * reach * swing, 1.0, tilt),
            "spin": (x, y, 1.0, tilt + turn * 2 * np.pi * pace * time),
            "grow": (x, y, 0.8 + 0.4 * way, tilt),
            "shrink": (x, y, 0.8 - 0.4 * way, tilt),
        }[motion]


def paste(canvas_SS3: np.ndarray, stamp_HW4: np.ndarray, x: float, y: float, scale: float, angle: float) -> None:
    """Puts the stamp on the canvas with its middle at pixel (x, y), turned and scaled, between pixels linearly."""
    padded = np.pad(stamp_HW4, ((1, 1), (1, 1), (0, 0)))  # its edges fade into nothing
    height, width = padded.shape[:2]
    reach = np.hypot(height, width) / 2 * scale
    rows, columns = (np.arange(max(0, int(at - reach)), min(SIDE, int(at + reach) + 2)) for at in (y, x))
    if not len(rows) or not len(columns):
        return
    dy, dx = (rows[:, None] - y) / scale, (columns[None] - x) / scale
    cos, sin = np.cos(angle), np.sin(angle)
    u = np.clip(dx * cos + dy * sin + (width - 1) / 2, 0, width - 1.001)
    v = np.clip(dy * cos - dx * sin + (height - 1) / 2, 0, height - 1.001)
    left, top = u.astype(int), v.astype(int)
    a, b = (u - left)[..., None].astype(np.float32), (v - top)[..., None].astype(np.float32)
    upper = padded[top, left] * (1 - a) + padded[top, left + 1] * a
    lower = padded[top + 1, left] * (1 - a) + padded[top + 1, left + 1] * a
    seen = upper * (1 - b) + lower * b
    part = canvas_SS3[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part += seen[..., :3] - part * (seen[..., 3:] / 255)


def frames_of(clip: Planned, rng: np.random.Generator) -> np.ndarray:
    """The pictures of a clip, uint8 (T, SIDE, SIDE, 3). The camera may drift over the background."""
    size = rng.uniform(0.35, 0.6) * SIDE
    stamp, ground = read_picture(clip.stamp.picture, round(size)), background(rng)
    free = max(SIDE - size, 0) / 2
    start, drift = rng.uniform(0.3, 0.7, 2) * SIDE, rng.choice([0, 0, 1]) * rng.uniform(-0.3, 0.3, 2) * SIDE
    pictures = []
    for number, (x, y, scale, angle) in enumerate(path_of(clip.motion, rng)):
        top, left = (start + drift * number / (SECONDS * FPS)).astype(int)
        picture = ground[top : top + SIDE, left : left + SIDE].copy()
        paste(picture, stamp, SIDE / 2 + free * x, SIDE / 2 + free * y, scale, angle)
        pictures.append(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def sound_of(path: Path, rng: np.random.Generator) -> np.ndarray:
    """As much of a sound as a clip is long, float32: from some moment on, once or repeatedly, 0 to 20 dB softer."""
    sound, length = read_sound(path), round(SECONDS * RATE)
    out = np.zeros(length, np.float32)
    at = int(rng.uniform(0, 0.8) * RATE)
    gap = int(rng.uniform(0.1, 0.6) * RATE) if rng.random() < 0.75 else length
    while at < length:
        part = sound[: length - at]
        out[at : at + len(part)] = part
        at += len(part) + gap
    peak = np.abs(out).max()
    return out * np.float32(10 ** (rng.uniform(-20, 0) / 20) * min(1.0, 0.99 / max(peak, SILENT)))


def make(folder: Path, seed: int, clip: Planned) -> None:
    """Writes one clip; the same for the same seed and number."""
    rng = np.random.default_rng([seed, 2, clip.number])
    frames = frames_of(clip, rng)
    sound = None if clip.stamp.sound is None else sound_of(clip.stamp.sound, rng)
    write_mp4(folder / clip.row["video"], frames, FPS, sound, RATE, FPS)


def build(stamps: Path, out: Path, with_sound: int = 8, silent: int = 2, seed: int = 0, workers: int = 0) -> Path:
    """Writes the clips and manifest.csv, or leaves those that are there as they are. Returns the path of the manifest.

    Beside it, sounds.csv has the rows with a sound, which a probe of sounds reads.

    Raises:
        StampsError: no stamps, or ``out`` holds something else.
    """
    manifest, about = out / "manifest.csv", out / "stamps.json"
    wanted = {"format": 1, "with_sound": with_sound, "silent": silent, "seed": seed}
    if manifest.is_file():
        if not about.is_file() or json.loads(about.read_text()) != wanted:
            raise StampsError(f"{out}: holds other clips than {wanted}; remove it or name another folder: --out DIR")
        return manifest
    clips = plan(find_stamps(stamps), with_sound, silent, seed)
    with appearing_folder(out) as partly:  # whole or not at all
        for split in sorted({clip.split for clip in clips}):
            (partly / split).mkdir()
        write = partial(make, partly, seed)
        if (count := workers or len(os.sched_getaffinity(0))) == 1:
            list(map(write, clips))
        else:
            with ProcessPoolExecutor(count) as pool:
                list(pool.map(write, clips, chunksize=8))
        rows = [clip.row for clip in clips]
        heard = [row for row in rows if row["sound"]]
        for path, some in ((manifest, rows), (out / "sounds.csv", heard)):
            with (partly / path.name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(some)
        (partly / about.name).write_text(json.dumps(wanted))
    return manifest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stamps", type=Path, default=STAMPS, help="folder of the package (%(default)s)")
    add("--out", type=Path, default=Path("runs/stamps-clips"), help="folder of the clips (%(default)s)")
    add("--with-sound", type=int, default=8, help="training clips of a stamp with a sound (%(default)s)")
    add("--silent", type=int, default=2, help="training clips of one without (%(default)s)")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=0, help="processes (0: one for each core)")
    try:
        manifest = build(**vars(parser.parse_args()))
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    print(manifest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
