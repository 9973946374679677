"""Files: the kinds of media and a walk to find them, files and folders that appear whole or not at all, JSON lines."""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vatt.errors import UserError

TREE = Path(__file__).resolve().parents[1]  # of the clone, where this is one
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
    *(".qt", ".3g2", ".3gpp", ".f4v", ".asf", ".divx", ".xvid", ".ogm", ".ogx", ".mk3d", ".nut"),
    *(".mts", ".m2ts", ".m2t", ".mpe", ".mpv", ".m1v", ".m2v", ".m2p", ".vob", ".evo", ".tod", ".tp", ".trp"),
    *(".mxf", ".dv", ".dif", ".rm", ".rmvb", ".wtv", ".amv", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265"),
    *(".hevc", ".ivf", ".y4m", ".insv", ".lrv"),
)
SOUNDS = (
    *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff"),
    *(".aifc", ".caf", ".ac3", ".eac3", ".ec3", ".amr", ".awb", ".3ga", ".mka", ".m4b", ".m4r", ".mp2", ".mpa"),
    *(".weba", ".spx", ".w64", ".rf64", ".au", ".snd", ".dts", ".ape", ".wv", ".tta", ".tak", ".mpc", ".voc", ".dsf"),
)
PICTURES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"),
    *(".jpe", ".jfif", ".pgm", ".pbm", ".pnm", ".apng", ".jp2", ".qoi"),
)
KINDS = {"video": VIDEOS, "audio": SOUNDS, "image": PICTURES}


def kind_of(path: Path) -> str | None:
    """ "video", "audio" or "image", by the suffix; None for any other file."""
    return next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), None)


def walk(folder: Path, kinds: Sequence[str], others: Counter[str] | None = None) -> Iterator[Path]:
    """Absolute paths of the media files below a folder, ordered; through linked folders too, but into none twice.

    Args:
        kinds: of "video", "audio" and "image". Hidden files are skipped.
        others: counts the endings, in lower case, of the files of other kinds.

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
            if name.startswith("."):
                continue
            if name.lower().endswith(suffixes):
                yield Path(current, name)
            elif others is not None:
                others[os.path.splitext(name)[1].lower()] += 1


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
        replace: whether an existing folder gives its name to the new one, once that is complete, and is removed then.
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
        if replace and path.is_dir():
            _take_the_place(partly, path)
        else:
            os.replace(partly, path)
        if sync:
            _sync(path.parent)
    except BaseException:
        shutil.rmtree(partly, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Removes a folder, as far as that is allowed; another process never sees a part of it under its name."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partly")
    with suppress(OSError):
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove_partly(folder: Path, names: str) -> None:
    """Removes what killed processes left of folders inside ``folder`` that were to appear, or to go. None may be at
    work on them.

    Args:
        names: of those folders, as a glob pattern.
    """
    for left in folder.glob(f".{names}.*partly"):
        shutil.rmtree(left, ignore_errors=True)


def _take_the_place(new: Path, old: Path) -> None:
    """Gives ``new`` the name of ``old``, which is removed after that. There is a folder of that name at any moment
    where the system can exchange two names (Linux, on most file systems); elsewhere ``old`` is renamed first."""
    aside = new
    if not _exchange(new, old):
        aside = new.with_name(new.name.replace(".partly", ".old.partly"))
        os.replace(old, aside)
        try:
            os.replace(new, old)
        except BaseException:
            os.replace(aside, old)
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names at once; False where this cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # no function of the os module does it
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


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


MOST_JSON = 16 * 2**20  # bytes of a JSON file, where its reader does not say otherwise; objects take ten times as many
_DEEPEST, _MOST_DIGITS, _MOST_CONTAINERS = 64, 40, 2_000_000
_BESIDE_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JSONError(UserError, ValueError):
    """JSON that cannot be used. The message names the file and the place in it: line and column, or the key."""


def read_json(
    path: str | Path, expected: type | None = None, *, most: int = MOST_JSON, surrogates: bool = False
) -> Any:
    """The content of a JSON file that may come from anybody: bounded in size, depth and digits, and strict.

    NaN, infinities (also 1e999) and an object with the same key twice are refused, which Python lets pass.

    Args:
        expected: dict or list, if it must be an object or an array.
        most: bytes that the file may have.
        surrogates: whether strings may hold lone surrogates, as names of files that are not UTF-8 do (`json_line`).

    Raises:
        JSONError: not JSON within these bounds; it is a ValueError, too.
        OSError: the file is not there or cannot be read.
    """
    return parse_json(read_bounded(path, most), path, expected, surrogates=surrogates)


def read_bounded(path: str | Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes. Raises OSError, or JSONError: it has more, or is a pipe."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise JSONError(f"{path}: is not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise JSONError(f"{path}: has more than {most:,} bytes, too many for such a file")
    return content


def parse_json(
    text: str | bytes,
    where: str | Path,
    expected: type | None = None,
    *,
    surrogates: bool = False,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """As `read_json`, of a text that was read already: a line, an entry of another file.

    Args:
        where: what an error names: the file, and the line or the entry.
        constant: the value of NaN, Infinity and -Infinity, where they are not refused.
    """
    try:
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JSONError(f"{where}: is not UTF-8 from byte {error.start} on") from error
    _check_nesting(content, where)
    refused: list[_Refused] = []

    def refuse(why: str) -> _Refused:
        refused.append(_Refused(why))
        return refused[-1]

    def integer(digits: str) -> Any:
        if len(digits) > _MOST_DIGITS:
            return refuse(f"a number of {len(digits)} digits")
        return int(digits)

    def real(digits: str) -> Any:
        value = float(digits)
        return value if math.isfinite(value) else refuse(f"{digits[:20]} is too large for a number")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            twice, _ = Counter(key for key, _ in items).most_common(1)[0]
            found[twice] = refuse("stands there twice")
        return found

    try:
        value = json.loads(
            decoded,
            parse_int=integer,
            parse_float=real,
            parse_constant=constant or (lambda name: refuse(f"{name} is no number")),
            object_pairs_hook=pairs,
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise JSONError(f"{where}: is not JSON: {error}") from error
    if refused or (not surrogates and _may_hold_surrogates(content)):
        for place, found in _walk_json(value, ""):
            if isinstance(found, _Refused):
                raise JSONError(f"{where}: {place or 'the value'}: {found.why}")
            if not surrogates and isinstance(found, str) and _has_surrogate(found):
                raise JSONError(f"{where}: {place or 'the value'}: holds half a character (a lone surrogate)")
    if expected is not None and type(value) is not expected:
        wanted = "an object {...}" if expected is dict else "an array [...]"
        raise JSONError(f"{where}: expected {wanted}, found {_shown(value)}")
    return value


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe, too, at once: without this, until somebody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Refused:
    """Stands in a parsed value for what was refused, so that a walk can tell where that is."""

    def __init__(self, why: str) -> None:
        self.why = why


def _check_nesting(content: bytes, where: str | Path) -> None:
    """Before the parser, which fills memory with empty lists, and calls itself for each bracket."""
    if content.count(b"[") + content.count(b"{") <= _DEEPEST:
        return
    outside = re.sub(rb'"[^"]*"?', b"", re.sub(rb"\\.", b"", content, flags=re.DOTALL))  # of strings
    brackets = outside.translate(None, _BESIDE_BRACKETS)
    if len(brackets) > 2 * _MOST_CONTAINERS:
        raise JSONError(f"{where}: has more than {_MOST_CONTAINERS:,} objects and arrays")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            raise JSONError(f"{where}: is nested deeper than {_DEEPEST} levels")


def _may_hold_surrogates(content: bytes) -> bool:
    return b"\\ud" in content or b"\\uD" in content or b"\xed" in content


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _walk_json(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Keys and values with their places, such as ``model.classes[3]``. As deep as `_check_nesting` lets pass."""
    yield place, value
    if isinstance(value, dict):
        for key, item in value.items():
            name = key if len(key) <= 80 else f"{key[:80]}..."
            inner = f"{place}.{name}" if place else name
            yield f"a key of {place or 'the object'}", key
            yield from _walk_json(item, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk_json(item, f"{place}[{number}]")


def _shown(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
