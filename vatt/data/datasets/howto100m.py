"""HowTo100M: caption.json and HowTo100M_v1.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.captions import Narration, timed_caption
from vatt.data.datasets.adapted import Adapted
from vatt.data.datasets.json_items import json_items
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, table
from vatt.data.manifest import ManifestError


def howto100m(annotations: Sequence[Path], videos: Path) -> Adapted:
    """HowTo100M: ``caption.json`` ({video id: {start: [], end: [], text: []}}), a row a video with all its sentences.

    The file is read a video at a time, and the sentences (136 million) are kept packed.

    HowTo100M_v1.csv (video_id, category_1, category_2, rank, task_id), if it is given, adds its columns; category_1
    becomes the label.

    Raises:
        ManifestError: a file cannot be read or has another layout; the message names it.
    """
    about: dict[str, dict[str, str]] = {}
    captions: list[Path] = []
    for path in files_in(annotations, "caption*.json"):
        if path.suffix.lower() == ".csv":
            about |= {row["video_id"]: row for _, row in table(path, ("video_id",))}
        else:
            captions.append(path)
    if not captions:
        raise ManifestError(f"{annotations[0]}: holds no captions; give caption.json as well")
    files, found = MediaFiles(videos), Adapted()
    for source in captions:
        for name, narration in json_items(source):
            if not isinstance(narration, dict) or not {"start", "end", "text"} <= narration.keys():
                raise ManifestError(f"{source}, video {name}: expected start, end and text")
            columns = [narration["start"], narration["end"], narration["text"]]
            if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
                raise ManifestError(f"{source}, video {name}: start, end and text must be lists of one length")
            file = files.find(name)
            if file is None:
                found.missing.append(name)
                continue
            extra = {key: value for key, value in about.get(name, {}).items() if key != "video_id"}
            sentences = []
            for start, end, text in zip(*columns, strict=True):
                if not isinstance(text, str) or not text.strip():
                    continue
                try:
                    sentences.append(timed_caption(text, start, end))
                except ValueError as error:
                    found.left_out.append(f"{name}: {error}")
            if not sentences:
                found.left_out.append(f"{name}: has no sentence")
                continue
            row = media_row(file, captions=Narration(sentences))
            label = {"label": extra["category_1"]} if extra.get("category_1") else {}
            found.rows.append(row | label | {"youtube_id": name} | extra)
    found.notes += files.notes()
    return found
