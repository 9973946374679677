"""Finding media files by the names that annotations give them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vatt.data.datasets.adapted import Row
from vatt.data.manifest import media_files
from vatt.files import kind_of


class MediaFiles:
    """The media files below a folder, by their names without ending.

    Args:
        kinds: of "video", "audio" and "image"; where files of several kinds have one name, the first kind is taken.

    Raises:
        ManifestError: there is no such folder.
    """

    def __init__(self, folder: Path, kinds: Sequence[str] = ("video",)) -> None:
        self.folder, self.kinds = folder, kinds
        self._paths: dict[str, list[Path]] = defaultdict(list)
        self._doubtful: set[str] = set()
        for path in media_files(folder, kinds):
            self._paths[path.stem].append(path)

    def find(self, *names: str, inside: Sequence[str] = ()) -> Path | None:
        """The file with the first of ``names`` (without ending) that there is.

        Of several, one that lies in folders named as ``inside`` says (a class, a split) is preferred.
        """
        for name in names:
            if name not in self._paths:
                continue
            paths = self._paths[name]
            if len(paths) == 1:
                return paths[0]
            wanted = {_plain(text) for text in inside}
            mended = [path for path in paths if any(part.startswith("replacement") for part in path.parts)]
            if mended:  # the common mirror of Kinetics-400 has whole files there for some that are broken
                return mended[0]
            ranked = sorted((self._rank(path, wanted), path) for path in paths)
            if ranked[0][0] == ranked[1][0]:
                self._doubtful.add(name)
            return ranked[0][1]
        return None

    def notes(self) -> list[str]:
        """That several files had the same claim to a name, if that was so."""
        if not self._doubtful:
            return []
        names = ", ".join(sorted(self._doubtful)[:5])
        return [f"{len(self._doubtful)} names are those of several files, the first path was taken: {names}"]

    def _rank(self, path: Path, wanted: set[str]) -> tuple[int, int]:
        return self.kinds.index(kind_of(path) or ""), -len(wanted & {_plain(part) for part in path.parent.parts})


def media_row(path: Path, **columns: Any) -> Row:
    """A row of the manifest: the file in the column of its kind, and the columns that are not None."""
    if (kind := kind_of(path)) is None:
        raise ValueError(f"{path}: is no media file")
    return {kind: str(path)} | {name: value for name, value in columns.items() if value is not None}


def cut_names(name: str, start: str, end: str) -> list[str]:
    """How tools that cut the annotated part out of a video name the file.

    With seconds in six digits (Kinetics), in plain seconds, or in milliseconds; with or without the end.
    """
    try:
        first, last = float(start), float(end)
    except ValueError:
        return []
    return [
        f"{name}_{first:06.0f}_{last:06.0f}",
        f"{name}_{first:g}_{last:g}",
        f"{name}_{1000 * first:.0f}_{1000 * last:.0f}",
        f"{name}_{first:g}",
        f"{name}_{1000 * first:.0f}",
    ]


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").replace("+", " ")
