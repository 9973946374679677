"""Published annotation files to this project's manifest: HowTo100M and AudioSet.

``python -m vatt.data.adapters howto100m --captions caption.json --videos DIR --out howto100m.jsonl``
``python -m vatt.data.adapters audioset --segments balanced_train_segments.csv --videos DIR --out audioset.jsonl``

Videos that are not in the folder (deleted from the web, not downloaded) are counted, not fatal.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.captions import timed_caption
from vatt.data.manifest import VIDEOS, ManifestError

Row = dict[str, Any]


@dataclass
class Adapted:
    """What an annotation file gave: rows of the manifest, ids of missing videos, and entries left out with reasons."""

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def summary(self) -> str:
        text = f"{len(self.rows)} rows; {len(self.missing)} videos missing; {len(self.left_out)} entries left out"
        return text + "".join(f"\n  {reason}" for reason in self.left_out[:5])


def howto100m(captions: Path, videos: Path, details: Path | None = None) -> Adapted:
    """HowTo100M: ``caption.json`` ({video id: {start: [], end: [], text: []}}), a row a narrated sentence.

    ``details`` (HowTo100M_v1.csv: video_id, category_1, category_2, rank, task_id) adds its columns; category_1
    becomes the label.

    Raises:
        ManifestError: a file cannot be read or has another layout; the message names it.
    """
    content = _json(captions)
    about = {row["video_id"]: row for row in _csv(details, {"video_id"})} if details else {}
    files, found = _index(videos), Adapted()
    for name, narration in content.items():
        if not isinstance(narration, dict) or not {"start", "end", "text"} <= narration.keys():
            raise ManifestError(f"{captions}, video {name}: expected start, end and text")
        if name not in files:
            found.missing.append(name)
            continue
        extra = dict(about.get(name, {}))
        extra.pop("video_id", None)
        label = extra.get("category_1")
        for start, end, text in zip(narration["start"], narration["end"], narration["text"], strict=False):
            if not isinstance(text, str) or not text.strip():
                continue
            try:
                caption = timed_caption(text, start, end)
            except ValueError as error:
                found.left_out.append(f"{name}: {error}")
                continue
            row = {"video": str(files[name]), "start": caption.start, "end": caption.end, "caption": caption.text}
            found.rows.append(row | ({"label": label} if label else {}) | {"youtube_id": name} | extra)
    return found


def audioset(segments: Path, videos: Path, labels: Path | None = None) -> Adapted:
    """AudioSet: a segments file (three comment lines, then YTID, start_seconds, end_seconds, "labels"); no captions.

    A video file is either the whole video or the cut segment, named by the id (or ``<id>_<start>``, as cutting tools
    do; such a file is taken whole). ``labels`` (class_labels_indices.csv) turns machine ids into names.

    Raises:
        ManifestError: a file cannot be read or has another layout; the message names it and the line.
    """
    names = {row["mid"]: row["display_name"] for row in _csv(labels, {"mid", "display_name"})} if labels else {}
    files, found = _index(videos), Adapted()
    for line, (name, start, end, ids) in _segments(segments):
        cut = next((files[key] for key in _cut_names(name, start, end) if key in files), None)
        path = cut or files.get(name)
        if path is None:
            found.missing.append(name)
            continue
        try:
            span = timed_caption("-", start, end)
        except ValueError as error:
            found.left_out.append(f"{segments}, line {line}: {error}")
            continue
        label = "|".join(names.get(mid, mid) for mid in ids.split(","))
        row: Row = {"video": str(path), "label": label, "youtube_id": name}
        found.rows.append(row if cut else {**row, "start": span.start, "end": span.end})
    return found


def write_manifest(rows: list[Row], out: Path) -> None:
    """Writes rows as a .jsonl manifest, atomically. Raises ManifestError if there is none, or it cannot be written."""
    if not rows:
        raise ManifestError(f"{out}: no row to write: not one annotated video is in the folder")
    if out.suffix != ".jsonl":
        raise ManifestError(f"{out}: the manifest must end in .jsonl")
    partly = out.with_name(f".{out.name}.partly")
    try:
        with partly.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partly.replace(out)
    except OSError as error:
        raise ManifestError(f"{out}: cannot write the manifest: {error}") from error


def _index(videos: Path) -> dict[str, Path]:
    """Video files below a folder by their name without ending."""
    if not videos.is_dir():
        raise ManifestError(f"{videos}: no such folder of videos")
    return {path.stem: path.resolve() for path in sorted(videos.rglob("*")) if path.suffix.lower() in VIDEOS}


def _cut_names(name: str, start: str, end: str) -> list[str]:
    """How tools that cut the segments name the files: seconds, or milliseconds, with or without the end."""
    try:
        first, last = float(start), float(end)
    except ValueError:
        return []
    return [f"{name}_{a}" for a in (f"{first:g}", f"{1000 * first:.0f}")] + [
        f"{name}_{first:g}_{last:g}",
        f"{name}_{1000 * first:.0f}_{1000 * last:.0f}",
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: expected an object with a video id a key")
    return content


def _csv(path: Path, columns: set[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := columns - set(reader.fieldnames or []):
                raise ManifestError(f"{path}: has no column {', '.join(sorted(missing))}")
            return list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error


def _segments(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        values = next(csv.reader([line], skipinitialspace=True))
        if len(values) != 4:
            raise ManifestError(f"{path}, line {number}: expected YTID, start, end, labels, got {len(values)} values")
        yield number, values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vatt.data.adapters", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    how = kinds.add_parser("howto100m", help="narrated videos")
    how.add_argument("--captions", type=Path, required=True, help="caption.json")
    how.add_argument("--details", type=Path, help="HowTo100M_v1.csv")
    sets = kinds.add_parser("audioset", help="10 s clips with sound labels")
    sets.add_argument(
        "--segments", type=Path, required=True, help="balanced_train_segments.csv or another of the three"
    )
    sets.add_argument("--labels", type=Path, help="class_labels_indices.csv")
    for made in (how, sets):
        made.add_argument("--videos", type=Path, required=True, help="folder of the downloaded videos")
        made.add_argument("--out", type=Path, required=True, help="manifest to write (.jsonl)")
    options = parser.parse_args(arguments)
    try:
        if options.kind == "howto100m":
            found = howto100m(options.captions, options.videos, options.details)
        else:
            found = audioset(options.segments, options.videos, options.labels)
        print(found.summary())
        write_manifest(found.rows, options.out)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
