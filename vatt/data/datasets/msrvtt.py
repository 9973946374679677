"""MSR-VTT: MSRVTT_data.json (or videodatainfo.json files), MSRVTT_JSFUSION_test.csv, MSRVTT_train.9k.csv or 7k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.datasets.adapted import Adapted, split_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, header_of, json_object, table
from vatt.data.manifest import ManifestError


@dataclass
class _Annotations:
    splits: dict[str, str] = field(default_factory=dict)  # video -> its official split
    categories: dict[str, str] = field(default_factory=dict)
    sentences: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))  # (number, words)
    queries: dict[str, str] = field(default_factory=dict)  # of a test file: video -> its one sentence
    listed: dict[str, str] = field(default_factory=dict)  # of a list for training: video -> its line
    has_list: bool = False


def msrvtt(annotations: Sequence[Path], videos: Path) -> Adapted:
    """MSR-VTT: clips named video0.mp4 with 20 sentences each.

    Of the .json files ({videos: [{video_id, split, category}], sentences: [{video_id, sen_id, caption}]}), a clip for
    training gives a row a sentence. A held-out clip gives one row, with the sentence of the lowest sen_id: rows of one
    video are its narration, and a clip is searched for with one query.

    The test file of the split 1k-A (``key,vid_key,video_id,sentence``) gives a row a line, with split test. All clips
    of the .json files that it does not name are for training then (the usual "9k"), or those that a list (a .csv with
    the column video_id, as MSRVTT_train.7k.csv) names.

    Raises:
        ManifestError: a file cannot be read or has another layout, a sentence of an unknown video, or a video that the
            test file has twice; the message names the file and the place.
    """
    known = _read(files_in(annotations, "MSRVTT*"))
    found, files = Adapted(), MediaFiles(videos)
    unused = 0
    for name, official in known.splits.items():
        if name in known.queries:
            continue
        split = "train" if known.queries or known.has_list else official
        if known.has_list and name not in known.listed:
            unused += 1
            continue
        if not known.sentences[name]:
            found.left_out.append(f"{name}: has no sentence")
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


def _add(found: Adapted, files: MediaFiles, name: str, sentences: list[str], split: str, known: _Annotations) -> None:
    path = files.find(name)
    if path is None:
        found.missing.append(name)
        return
    for sentence in sentences:
        category = known.categories.get(name)
        found.rows.append(media_row(path, caption=sentence, split=split, video_id=name, category=category))


def _read(paths: Sequence[Path]) -> _Annotations:
    known = _Annotations()
    for path in paths:
        if path.suffix.lower() == ".json":
            _read_json(path, known)
        elif "sentence" in header_of(path):
            _read_queries(path, known)
        else:
            known.has_list = True
            known.listed |= {row["video_id"]: place for place, row in table(path, ("video_id",))}
    if absent := [name for name in known.listed if name not in known.splits]:
        raise ManifestError(f"{known.listed[absent[0]]}: no .json file has the clip {absent[0]}; give MSRVTT_data.json")
    return known


def _read_json(path: Path, known: _Annotations) -> None:
    content = json_object(path)
    for number, video in enumerate(_list(path, content, "videos")):
        place = f"{path}, videos, item {number}"
        name, split = _text(video, "video_id", place), _text(video, "split", place)
        known.splits[name] = split_of(split, place)
        if "category" in video:
            known.categories[name] = str(video["category"])
    for number, sentence in enumerate(_list(path, content, "sentences")):
        place = f"{path}, sentences, item {number}"
        name, text = _text(sentence, "video_id", place), _text(sentence, "caption", place)
        if name not in known.splits:
            raise ManifestError(f"{place}: {name} is not among the videos")
        order = sentence.get("sen_id", number)
        known.sentences[name].append((order if isinstance(order, int) else number, text))


def _read_queries(path: Path, known: _Annotations) -> None:
    for place, row in table(path, ("video_id", "sentence")):
        name, sentence = row["video_id"].strip(), row["sentence"].strip()
        if not name or not sentence:
            raise ManifestError(f"{place}: the {'sentence' if name else 'video_id'} is empty")
        if name in known.queries:
            raise ManifestError(f"{place}: {name} has a sentence already; the test file has one a clip")
        known.queries[name] = sentence


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list):
        raise ManifestError(f"{path}: has no list {key!r}")
    return content[key]


def _text(item: Any, key: str, place: str) -> str:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{place}: has no {key}")
    return value.strip()
