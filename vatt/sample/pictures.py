"""One picture of each clip of the sample: its middle frame, with the labels of the clip.

They are what fine-tuning on images reads on the sample, and a control: shape and colour can be told from one frame, the
motion cannot.
"""

from __future__ import annotations

import csv
from pathlib import Path

import av
import av.error

from vatt.files import appearing, appearing_folder
from vatt.sample.build import MANIFEST, SampleError

PICTURES = "pictures.csv"


def build_pictures(sample: str | Path) -> Path:
    """Writes ``pictures/`` and its manifest into the folder of a sample set, or leaves them as they are.

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
