"""What is served of an index: its files and windows, by numbers. No name or path ever comes from a request."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vatt.errors import printable
from vatt.files import kind_of
from vatt.search import Hit, Index, IndexedFile

SHOWN = 40  # windows of a file, and near copies of it, that an answer lists

# What a file is called in an answer, by its ending; others by their kind. A browser plays what it knows, and never
# takes a file of strangers for a page.
_TYPES = {
    **{".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".qt": "video/mp4", ".webm": "video/webm"},
    **{".mkv": "video/x-matroska", ".ogv": "video/ogg", ".avi": "video/x-msvideo", ".3gp": "video/3gpp"},
    **{".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".ogg": "audio/ogg", ".oga": "audio/ogg"},
    **{".opus": "audio/ogg", ".wav": "audio/wav", ".flac": "audio/flac", ".weba": "audio/webm"},
    **{".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jpe": "image/jpeg", ".jfif": "image/jpeg", ".png": "image/png"},
    **{".apng": "image/apng", ".webp": "image/webp", ".gif": "image/gif", ".bmp": "image/bmp"},
}
_OTHERS = {"video": "video/octet-stream", "audio": "audio/octet-stream", "image": "image/octet-stream"}


class Collection:
    """An open index, as the page is told of it."""

    def __init__(self, index: Index) -> None:
        self.index, self.version = index, version_of(index)
        files = np.asarray(index.rows.file)
        # The rows of each file, in order of time.
        self._order = np.lexsort((np.asarray(index.rows.start_s), files))
        self._first = np.searchsorted(files[self._order], np.arange(len(index.files) + 1))

    def rows_of(self, file: int) -> np.ndarray:
        """Of a file by its number, in order of time."""
        return self._order[self._first[file] : self._first[file + 1]]

    def about(self) -> dict[str, Any]:
        """Counts, folders and kinds."""
        folders, kinds = Counter[str](), Counter[str]()
        for file in self.index.files:
            kinds[file.kind] += 1
            folder = PurePosixPath(file.folder)
            folders.update(above.as_posix() for above in (folder, *folder.parents) if above.as_posix() != ".")
        seconds = [file.seconds for file in self.index.files]
        return {
            "files": len(seconds),
            "windows": len(self.index),
            "seconds": round(sum(seconds), 1),
            "longest": max(seconds, default=0.0),
            "folders": [[name, printable(name), count] for name, count in sorted(folders.items())],
            "kinds": dict(kinds),
            "examples": _examples(self._captions()),
        }

    def _captions(self) -> Iterable[str]:
        """Of some files, evenly spread."""
        for number in range(0, len(self.index.files), max(1, len(self.index.files) // 200)):
            for row in self.rows_of(number)[:1]:
                yield self.index.window(int(row)).caption

    def file(self, number: int) -> dict[str, Any]:
        """A file by its number."""
        file = self.index.files[number]
        return {
            "item": number,
            "v": self.version,
            "name": printable(PurePosixPath(file.name).name),
            "folder": printable(file.folder),
            "in": file.folder,
            "kind": file.kind,
            "seconds": round(file.seconds, 3),
            "label": printable(file.label or "")[:200],
            "playable": may_be_sent(file),
        }

    def moment(self, row: int) -> dict[str, Any]:
        """A window, with its file. Raises IndexError."""
        if not 0 <= row < len(self.index):
            raise IndexError(f"row {row}")
        window = self.index.window(row)
        file = self.file(int(self.index.rows.file[row]))
        times = {"start": round(window.start_s, 3), "end": round(window.end_s, 3)}
        return {**file, "row": row, **times, "caption": printable(window.caption or "")[:600]}

    def moments(self, number: int) -> list[list[float]]:
        """[row, start, end] of the windows of a file, in order of time."""
        rows = self.index.rows
        return [[int(row), round(float(rows.start_s[row]), 3), round(float(rows.end_s[row]), 3)]
                for row in self.rows_of(number)]  # fmt: skip

    def found(self, hits: Iterable[Hit]) -> list[dict[str, Any]]:
        """What was found, a file once: its best window, its other ones with their scores, and its near copies."""
        rows = self.index.rows
        files: dict[int, dict[str, Any]] = {}
        for hit in hits:
            moment = self.moment(hit.window.row)
            cosines = {name: round(float(value), 4) for name, value in hit.cosines.items() if math.isfinite(value)}
            first = {"score": round(float(hit.score), 4), "cosines": cosines, "moments": [], "copies": []}
            file = files.setdefault(moment["item"], {**moment, **first})
            file["moments"] += [
                [row, round(float(rows.start_s[row]), 3), round(float(rows.end_s[row]), 3), round(float(score), 4)]
                for row, score in hit.windows[: SHOWN - len(file["moments"])]
            ]
            copies = hit.duplicates[: SHOWN - len(file["copies"])]
            file["copies"] += [self.moment(copy.window.row) for copy in copies]
        return list(files.values())

    def spaces(self) -> dict[str, str]:
        """The spaces that can be mapped: of "picture" and "sound" the first that has any vector."""
        found = {}
        for what, modality in (("picture", "video"), ("sound", "audio")):
            for space in self.index.spaces:
                if space.split("-")[0] == modality and what not in found and self.index.has(space).any():
                    found[what] = space
        return found


def version_of(index: Index) -> str:
    """Differs where the numbers of files or windows mean others."""
    digest = hashlib.sha256()
    for file in index.files:
        digest.update(f"{file.name}\0{file.sha256}\0{file.size}\0{file.mtime}\0".encode(errors="surrogateescape"))
    for column in (index.rows.file, index.rows.start_s):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:12]


def media_type(file: IndexedFile) -> str:
    """For the Content-Type of its bytes."""
    assert file.path is not None
    return _TYPES.get(file.path.suffix.lower(), _OTHERS[file.kind])


def may_be_sent(file: IndexedFile) -> bool:
    """Whether it is called like media, and windows of it were read: an index that somebody else made must not give away
    other files, nor a link in a folder that somebody else made."""
    return file.path is not None and kind_of(file.path) is not None and file.windows > 0


def _examples(captions: Iterable[str]) -> list[str]:
    """A few captions that begin differently, to suggest as searches."""
    found: dict[str, str] = {}
    for caption in captions:
        words = printable(caption or "").split()
        if 2 <= len(words) <= 9:
            found.setdefault(" ".join(words[:2]).lower(), " ".join(words).strip(" ."))
    some = list(found.values())
    return some[:: max(1, len(some) // 5)][:5]
