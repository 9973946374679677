"""Files: the kinds of media and a walk to find them, files and folders that appear whole or not at all, JSON lines."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]  # of the clone, where this is one
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
KINDS = {"video": VIDEOS, "audio": SOUNDS, "image": PICTURES}


def kind_of(path: Path) -> str | None:
    """ "video", "audio" or "image", by the suffix; None for any other file."""
    return next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), None)


def walk(folder: Path, kinds: Sequence[str]) -> Iterator[Path]:
    """Absolute paths of the media files below a folder, ordered; through linked folders too, but into none twice.

    Args:
        kinds: of "video", "audio" and "image". Hidden files are skipped.

    Raises:
        OSError: ``folder``, or one below it, is not there or cannot be read.
    """
    suffixes = tuple(suffix for kind in kinds for suffix in KINDS[kind])
    seen: set[tuple[int, int]] = set()
    for current, folders, names in os.walk(folder.resolve(), followlinks=True, onerror=_fail):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(current, name)


def _fail(error: OSError) -> None:  # by itself, os.walk skips unreadable folders
    raise error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to: renamed to ``path`` when the block ends, removed if it fails.

    Readers see the old file or the whole new one, never a part. The name is the same each time, so that what a killed
    process left is overwritten; only one process at a time may write a path. A device or a pipe (such as /dev/null)
    is written to, never replaced.
    """
    if path.is_char_device() or path.is_fifo():
        yield path
        return
    partly = path.with_name(f".{path.name}.partly")
    try:
        yield partly
        os.replace(partly, path)
    except BaseException:
        partly.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with appearing(path) as partly:
        partly.write_bytes(content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file in UTF-8 with these lines, whole or not at all; they need not fit into memory together."""
    with appearing(path) as partly, partly.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@contextmanager
def appearing_folder(path: Path, *, replace: bool = False, sync: bool = False) -> Iterator[Path]:
    """A new folder beside ``path`` to fill: renamed to ``path`` when the block ends, removed if it fails.

    Args:
        path: must not exist, or be an empty folder. The folders above it are created.
        replace: whether an existing folder is removed once the new one is complete.
        sync: whether the files are on the disk before the rename, which must not overtake their content if the power
            fails. Those in sub-folders are not synchronised.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partly")
    partly.mkdir()
    try:
        yield partly
        if sync:
            for entry in (*partly.iterdir(), partly):
                _sync(entry)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partly, path)
        if sync:
            _sync(path.parent)
    except BaseException:
        shutil.rmtree(partly, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as JSON in one line: letters as they are, but everything escaped if a name of a file is not UTF-8.

    Such names come as lone surrogates (`os.fsdecode`), which no UTF-8 file can hold; escaped they come back the same.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=default)
    return text
