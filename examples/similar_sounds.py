"""Finds the videos that go with a sound: both are embedded in the space of video and audio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vatt import VATT, read_clips
from vatt.data import choose_split
from vatt.errors import UserError, printable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("runs/sample-clips/val/0000.mp4")
    parser.add_argument("sound", nargs="?", type=Path, default=default, help="sound file, or a video (%(default)s)")
    parser.add_argument("--videos", type=Path, default=Path("runs/sample-clips/val"), help="folder or manifest")
    parser.add_argument("--split", help="of a manifest: only its clips (all)")
    parser.add_argument("--model", type=Path, default=Path("runs/sample"), help="model or run")
    parser.add_argument("--top", type=int, default=5, help="videos shown (%(default)s)")
    parser.add_argument("--windows", type=int, default=4, help="of a file, averaged (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (%(default)s)")
    options = parser.parse_args()
    try:
        model = VATT.from_pretrained(options.model)
        sound_D = model.embed_audio(options.sound, space="video", windows=options.windows)
        clips = choose_split(read_clips(options.videos).clips, options.split, str(options.videos))
        videos_ND = model.embed_video(clips, space="audio", windows=options.windows, workers=options.workers)
    except UserError as error:  # the message says how to mend it
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    best = (videos_ND @ sound_D).topk(min(options.top, len(clips)))
    print(f"videos that go with the sound of {printable(options.sound)}")
    for similar, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {similar:.3f}  {printable(clips[number].video)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
