"""Videos with sentences: HowTo100M, MSR-VTT, YouCook2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.captions import Narration, timed_caption
from vatt.data.clips import ManifestError
from vatt.data.datasets.reading import files_in, header_of, json_items, json_object, records, table
from vatt.data.datasets.rows import DatasetRows, MediaFiles, known_label, split_of
from vatt.data.manifest import media_row


def howto100m(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """HowTo100M: ``caption.json`` ({video id: {start: [], end: [], text: []}}), one row per video with its sentences.

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
    files, found = MediaFiles(videos), DatasetRows()
    for path in captions:
        for name, narration in json_items(path):
            if not isinstance(narration, dict) or not {"start", "end", "text"} <= narration.keys():
                raise ManifestError(f"{path}, video {name}: expected start, end and text")
            columns = [narration["start"], narration["end"], narration["text"]]
            if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
                raise ManifestError(f"{path}, video {name}: start, end and text must be lists of one length")
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
                    found.skipped.append(f"{name}: {error}")
            if not sentences:
                found.skipped.append(f"{name}: has no sentence")
                continue
            row = media_row(file, captions=Narration(sentences))
            label = {"label": extra["category_1"]} if extra.get("category_1") else {}
            found.rows.append(row | label | {"youtube_id": name} | extra)
    found.notes += files.notes()
    return found


@dataclass
class _MSRVTT:
    """What the annotation files of MSR-VTT say."""

    splits: dict[str, str] = field(default_factory=dict)  # video -> its official split
    categories: dict[str, str] = field(default_factory=dict)
    sentences: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))  # (number, words)
    queries: dict[str, str] = field(default_factory=dict)  # of a test file: video -> its one sentence
    listed: dict[str, str] = field(default_factory=dict)  # of a list for training: video -> its line
    has_list: bool = False


def msrvtt(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """MSR-VTT: clips named video0.mp4 with 20 sentences each.

    Of the .json files ({videos: [{video_id, split, category}], sentences: [{video_id, sen_id, caption}]}), a clip for
    training gives one row per sentence. A held-out clip gives one row, with the sentence of the lowest sen_id: rows of
    one video are its narration, and a clip is searched for with one query.

    The test file of the split 1k-A (``key,vid_key,video_id,sentence``) gives one row per line, with split test. All
    clips of the .json files that it does not name are for training then (the usual "9k"), or those that a list (a .csv
    with the column video_id, as MSRVTT_train.7k.csv) names.

    Raises:
        ManifestError: a file cannot be read or has another layout, a sentence of an unknown video, or a video that the
            test file has twice; the message names the file and the entry.
    """
    known = _read_msrvtt(files_in(annotations, "MSRVTT*"))
    found, files = DatasetRows(), MediaFiles(videos)
    unused = 0
    for name, official in known.splits.items():
        if name in known.queries:
            continue
        split = "train" if known.queries or known.has_list else official
        if known.has_list and name not in known.listed:
            unused += 1
            continue
        if not known.sentences[name]:
            found.skipped.append(f"{name}: has no sentence")
            continue
        sentences = [text for _, text in sorted(known.sentences[name])]
        _add(found, files, name, sentences if split == "train" else sentences[:1], split, known)
    for name, query in known.queries.items():
        _add(found, files, name, [query], "test", known)
    if unused:
        found.notes.append(f"{unused} clips are neither in the test file nor in the list for training")
    held = {row["video_id"] for row in found.rows if row["split"] != "train"} - known.queries.keys()
    if held:
        found.notes.append(f"{len(held)} held-out clips have their first sentence as query; the others are left out")
    found.notes += files.notes()
    return found


def _add(found: DatasetRows, files: MediaFiles, name: str, sentences: list[str], split: str, known: _MSRVTT) -> None:
    file = files.find(name)
    if file is None:
        found.missing.append(name)
        return
    for sentence in sentences:
        category = known.categories.get(name)
        found.rows.append(media_row(file, caption=sentence, split=split, video_id=name, category=category))


def _read_msrvtt(paths: Sequence[Path]) -> _MSRVTT:
    known = _MSRVTT()
    for path in paths:
        if path.suffix.lower() == ".json":
            _read_json(path, known)
        elif "sentence" in header_of(path):
            _read_queries(path, known)
        else:
            known.has_list = True
            known.listed |= {row["video_id"]: where for where, row in table(path, ("video_id",))}
    if absent := [name for name in known.listed if name not in known.splits]:
        raise ManifestError(f"{known.listed[absent[0]]}: no .json file has the clip {absent[0]}; give MSRVTT_data.json")
    return known


def _read_json(path: Path, known: _MSRVTT) -> None:
    content = json_object(path)
    for number, video in enumerate(_list(path, content, "videos")):
        where = f"{path}, videos, item {number}"
        name, split = _text(video, "video_id", where), _text(video, "split", where)
        known.splits[name] = split_of(split, where)
        if "category" in video:
            known.categories[name] = str(video["category"])
    for number, sentence in enumerate(_list(path, content, "sentences")):
        where = f"{path}, sentences, item {number}"
        name, text = _text(sentence, "video_id", where), _text(sentence, "caption", where)
        if name not in known.splits:
            raise ManifestError(f"{where}: {name} is not among the videos")
        order = sentence.get("sen_id", number)
        known.sentences[name].append((order if isinstance(order, int) else number, text))


def _read_queries(path: Path, known: _MSRVTT) -> None:
    for where, row in table(path, ("video_id", "sentence")):
        name, sentence = row["video_id"].strip(), row["sentence"].strip()
        if not name or not sentence:
            raise ManifestError(f"{where}: the {'sentence' if name else 'video_id'} is empty")
        if name in known.queries:
            raise ManifestError(f"{where}: {name} has a sentence already; the test file has one a clip")
        known.queries[name] = sentence


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list):
        raise ManifestError(f"{path}: has no list {key!r}")
    return content[key]


def _text(item: Any, key: str, where: str) -> str:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{where}: has no {key}")
    return value.strip()


def youcook2(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """YouCook2: {database: {video id: {subset, recipe_type, annotations: [{segment, id, sentence}]}}}.

    One row per segment: its range, its sentence as caption, the split, and the recipe as label: the number of its type,
    or the name where label_foodtype.csv (``113,grilled cheese``) is given, too. Files are whole videos, named by the
    id.

    Raises:
        ManifestError: a file cannot be read or has another layout, or an unknown recipe; names the file and the video.
    """
    paths = files_in(annotations, "youcookii_annotations*.json")
    lists = [path for path in paths if path.suffix.lower() == ".csv"]
    recipes = {number: name for path in lists for _, (number, name) in records(path, (2,), "number,recipe")}
    if lists == paths:
        raise ManifestError(f"{paths[0]}: holds the names of recipes alone; give the annotations (.json) as well")
    found, files = DatasetRows(), MediaFiles(videos)
    for path in paths:
        if path in lists:
            continue
        for name, video in _youcook2_database(path).items():
            where = f"{path}, video {name}"
            if not isinstance(video, dict) or "subset" not in video or not isinstance(video.get("annotations"), list):
                raise ManifestError(f"{where}: expected subset and annotations")
            split, recipe = split_of(str(video["subset"]), where), str(video.get("recipe_type", ""))
            label = recipes[known_label(recipe, recipes, where, lists[0])] if recipes and recipe else recipe
            file = files.find(name, inside=(str(video["subset"]), recipe))
            if file is None:
                found.missing.append(name)
                continue
            for number, part in enumerate(video["annotations"]):
                try:
                    start, end = part["segment"]
                    span = timed_caption(str(part.get("sentence", "")), start, end)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    found.skipped.append(f"{name}, segment {number}: {error}")
                    continue
                row = media_row(file, start=span.start, end=span.end, caption=span.text or None, label=label or None)
                extra = {"split": split, "youtube_id": name, "segment": str(part.get("id", number))}
                found.rows.append(row | extra | ({"recipe_type": recipe} if recipe else {}))
    found.notes += files.notes()
    return found


def _youcook2_database(path: Path) -> dict[str, Any]:
    database = json_object(path).get("database")
    if not isinstance(database, dict):
        raise ManifestError(f"{path}: has no object 'database' with a video id a key")
    return database
