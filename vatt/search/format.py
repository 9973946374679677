"""The folder of an index, on the disk: ``index.json``, and segments that are written once and never changed.

    INDEX/index.json                        what all of it was made with: model, settings, vectors
    INDEX/segments/00000003.safetensors     some windows: which file, when, their vectors; and records of files
    INDEX/faults.jsonl                      what could not be read, for people
    INDEX/lock                              held by the one process that writes
    INDEX-00003-of-00008.parts/             the same of a share of the files, and finished.json when it is done

A segment appears whole or not at all, so its presence is what commits it. A later record of a file replaces earlier
ones.

The tensors of a segment, of n windows: ``content`` int32 (n,), which content of the segment's records; ``start`` and
``end`` float64 (n,), seconds; for each vector set ``NAME`` float16 (n, D), L2-normalised, zero where a window has none,
and ``has NAME`` uint8 (n,); and ``records``, uint8: lines of JSON, see `Record`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vatt.errors import UserError
from vatt.files import appearing, write_text
from vatt.json_files import JSONError, json_line, parse_json, read_json
from vatt.models.config import VATTConfig
from vatt.weights.folder import PretrainedError, read_header
from vatt.weights.tensors import Tensors, write_tensors

FORMAT = 1
ABOUT, SEGMENTS, FAULTS, LOCK, FINISHED = "index.json", "segments", "faults.jsonl", "lock", "finished.json"
MOST_SECONDS = 1e9  # of a file
MOST_RECORDS = 2**30  # bytes of the records of a segment: a million files have 300 MB
_TYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I32": np.int32, "U8": np.uint8}
Record = dict[str, Any]
"""One of

- ``{"content": id, "media", "size", "seconds", "sha256", "ranges", "windows", "part": [a, b], "rows", "faults":
  [...]}``: windows a to b of a content were tried; ``rows`` of them gave a vector and are in this segment.
- ``{"file": name, "content": id, "size", "mtime", "label", "captions": [...], "beside": [...]}``: a name, the content
  that it has now, and its captions, with what tells whether they are others now.
- ``{"file": name, "deleted": true}``.
"""


class SearchError(UserError, RuntimeError):
    """An index that cannot be made, opened or asked. The message names the file or the option."""


def vector_sets(config: VATTConfig) -> dict[str, tuple[str, str]]:
    """What an index keeps of a window: vector set -> (modality, space), see `vatt.inference.spaces`.

    With a fine and a coarse space: the picture in both, the sound in the fine one. With a joint head picture and sound
    have one vector each, comparable with sentences and with each other.
    """
    if config.head.kind == "fac":
        return {"video-text": ("video", "text"), "video-audio": ("video", "audio"), "audio-video": ("audio", "video")}
    return {"video": ("video", "text"), "audio": ("audio", "video")}


@dataclass(frozen=True)
class Segment:
    """An open segment: its small columns in memory, its vectors mapped."""

    path: Path
    content_N: np.ndarray
    start_N: np.ndarray
    end_N: np.ndarray
    vectors: dict[str, np.ndarray]
    has: dict[str, np.ndarray]
    records: list[Record] = field(repr=False)

    def __len__(self) -> int:
        return len(self.content_N)


@dataclass
class Batch:
    """What is to be written as a segment; see `Segment`. ``contents``: of its records."""

    content_N: list[int] = field(default_factory=list)
    start_N: list[float] = field(default_factory=list)
    end_N: list[float] = field(default_factory=list)
    vectors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    has: dict[str, list[np.ndarray]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    contents: int = 0


def write_segment(path: Path, batch: Batch, widths: Mapping[str, int]) -> None:
    """Writes a segment, whole or not at all, and synchronises it with the disk."""
    text = "".join(json_line(record) + "\n" for record in batch.records).encode()
    tensors = {
        "content": torch.tensor(batch.content_N, dtype=torch.int32),
        "start": torch.tensor(batch.start_N, dtype=torch.float64),
        "end": torch.tensor(batch.end_N, dtype=torch.float64),
        "records": torch.from_numpy(np.frombuffer(text, np.uint8).copy()),
    }
    for name, width in widths.items():
        parts = batch.vectors.get(name) or [np.empty((0, width), np.float16)]
        tensors[name] = torch.from_numpy(np.concatenate(parts))
        tensors[f"has {name}"] = torch.from_numpy(np.concatenate(batch.has.get(name) or [np.empty(0, np.uint8)]))
    with appearing(path) as partly:
        write_tensors(partly, Tensors.of(tensors), {"format": f"vatt index {FORMAT}"})
        with partly.open("rb") as file:
            os.fsync(file.fileno())


def read_segment(path: Path, widths: Mapping[str, int]) -> Segment:
    """Opens a segment. Its checksum is not looked at (`vatt.weights.tensors.TensorFile` does).

    Raises:
        SearchError: it is damaged, or of another index.
    """
    try:
        header = read_header(path)
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            offsets = json.loads(file.read(begin - 8))
    except (PretrainedError, OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("cannot be read: ")
        raise SearchError(f"{path}: cannot be read: {reason}") from error
    whole = np.memmap(path, np.uint8, "c")  # PyTorch takes no array that is read only; nobody writes

    def column(name: str, dtype: Any, *shape: int) -> np.ndarray:
        kind, found = header.get(name, ("", ()))
        first, last = offsets.get(name, {}).get("data_offsets", (0, 0))
        size = np.dtype(dtype).itemsize * int(np.prod(found))
        if _TYPES.get(kind) is not dtype or found[1:] != shape or last - first != size:
            raise SearchError(f"{path}: is no segment of this index: {name} is {kind or 'missing'} {found}")
        return whole[begin + first : begin + last].view(dtype).reshape(found)

    content_N = np.array(column("content", np.int32))
    start_N, end_N = (np.array(column(name, np.float64)) for name in ("start", "end"))
    if not (np.isfinite(start_N).all() and np.isfinite(end_N).all()):
        raise SearchError(f"{path}: is damaged: times that are no numbers")
    vectors = {name: column(name, np.float16, width) for name, width in widths.items()}
    has = {name: np.array(column(f"has {name}", np.uint8)) > 0 for name in widths}
    if len({len(x) for x in (content_N, start_N, end_N, *vectors.values(), *has.values())}) > 1:
        raise SearchError(f"{path}: is damaged: its columns differ in length")
    text = column("records", np.uint8).tobytes()
    try:
        if len(text) > MOST_RECORDS:
            raise JSONError("too many records")
        records = [parse_json(line, f"{path}: records", dict, surrogates=True) for line in text.splitlines()]
    except JSONError as error:
        raise SearchError(f"{path}: {error}") from error
    contents = sum("part" in record for record in records)
    if len(content_N) and not 0 <= content_N.min() <= content_N.max() < contents:
        raise SearchError(f"{path}: is damaged: windows of contents that it does not hold")
    return Segment(path, content_N, start_N, end_N, vectors, has, records)


@dataclass(frozen=True)
class About:
    """``index.json``.

    Attributes:
        model: name, path, and digests of the weights and of the words, see `describe_model`.
        settings: all else that the windows and their vectors depend on.
        vectors: vector set -> width.
        source: where the files are; it may have moved.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    vectors: dict[str, int]
    source: str

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, "source": self.source, "model": self.model} | {
            "settings": self.settings,
            "vectors": self.vectors,
        }
        write_text(folder / ABOUT, json_text(content))

    @classmethod
    def read(cls, folder: Path) -> About:
        """Raises SearchError: there is no index, or one of another version."""
        path = folder / ABOUT
        if not path.is_file():
            what = "has no index.json" if folder.is_dir() else "no such folder"
            raise SearchError(f"{folder}: {what}; make an index with: vatt index FOLDER --model M --out {folder}")
        try:
            found = read_json(path, dict, surrogates=True)
        except (OSError, JSONError) as error:
            raise SearchError(f"{path}: cannot be read: {str(error).removeprefix(f'{path}: ')}") from error
        if found.get("format") != FORMAT:
            raise SearchError(
                f"{path}: format: {found.get('format')!r}, this version reads {FORMAT}; make the index again"
            )
        kinds = {"model": dict, "settings": dict, "vectors": dict, "source": str}
        for name, kind in kinds.items():
            if not isinstance(found.get(name), kind):
                raise SearchError(f"{path}: {name}: is missing, or no {kind.__name__}")
        if not all(isinstance(found["model"].get(name), str) for name in ("name", "path")):
            raise SearchError(f"{path}: model: needs a name and a path")
        widths = found["vectors"]
        if not all(type(width) is int and 0 < width <= 2**16 for width in widths.values()):
            raise SearchError(f"{path}: vectors: {widths} are no widths")
        return cls(**{name: found[name] for name in kinds})


def json_text(content: Any) -> str:
    """Indented JSON; everything is escaped where a name is not UTF-8."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, indent=1)
    return text


def segment_paths(folder: Path) -> list[Path]:
    """The segments of an index, the oldest first."""
    return sorted(path for path in (folder / SEGMENTS).glob("*.safetensors") if path.stem.isdigit())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process writes into the index at a time. Raises SearchError: another one does."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not held by reading processes left over
        except OSError as error:
            held = error.errno in (errno.EACCES, errno.EAGAIN)
            why = "another process writes there" if held else f"{LOCK}: cannot be locked: {error.strerror}"
            raise SearchError(f"{folder}: {why}") from error
        yield
