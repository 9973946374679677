"""YouCook2: youcookii_annotations_trainval.json and label_foodtype.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vatt.data.captions import timed_caption
from vatt.data.datasets.adapted import Adapted, known, split_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, json_object, records
from vatt.data.manifest import ManifestError


def youcook2(annotations: Sequence[Path], videos: Path) -> Adapted:
    """YouCook2: {database: {video id: {subset, recipe_type, annotations: [{segment, id, sentence}]}}}.

    A row a segment: its range, its sentence as caption, the split, and the recipe as label: the number of its type, or
    the name where label_foodtype.csv (``113,grilled cheese``) is given, too. Files are whole videos, named by the id.

    Raises:
        ManifestError: a file cannot be read or has another layout, or an unknown recipe; names the file and the video.
    """
    paths = files_in(annotations, "youcookii_annotations*.json")
    lists = [path for path in paths if path.suffix.lower() == ".csv"]
    recipes = {number: name for path in lists for _, (number, name) in records(path, (2,), "number,recipe")}
    if lists == paths:
        raise ManifestError(f"{paths[0]}: holds the names of recipes alone; give the annotations (.json) as well")
    found, files = Adapted(), MediaFiles(videos)
    for source in paths:
        if source in lists:
            continue
        for name, video in _database(source).items():
            place = f"{source}, video {name}"
            if not isinstance(video, dict) or "subset" not in video or not isinstance(video.get("annotations"), list):
                raise ManifestError(f"{place}: expected subset and annotations")
            split, recipe = split_of(str(video["subset"]), place), str(video.get("recipe_type", ""))
            label = recipes[known(recipe, recipes, place, lists[0])] if recipes and recipe else recipe
            path = files.find(name, inside=(str(video["subset"]), recipe))
            if path is None:
                found.missing.append(name)
                continue
            for number, part in enumerate(video["annotations"]):
                try:
                    start, end = part["segment"]
                    span = timed_caption(str(part.get("sentence", "")), start, end)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    found.left_out.append(f"{name}, segment {number}: {error}")
                    continue
                row = media_row(path, start=span.start, end=span.end, caption=span.text or None, label=label or None)
                extra = {"split": split, "youtube_id": name, "segment": str(part.get("id", number))}
                found.rows.append(row | extra | ({"recipe_type": recipe} if recipe else {}))
    found.notes += files.notes()
    return found


def _database(path: Path) -> dict[str, Any]:
    database = json_object(path).get("database")
    if not isinstance(database, dict):
        raise ManifestError(f"{path}: has no object 'database' with a video id a key")
    return database
