"""Files: the kinds of media and a walk to find them, files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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
_PARTLY, _OLD = ".partly", ".old.partly"  # endings of folders that are to appear, and that gave up their name
KINDS = {"video": VIDEOS, "audio": SOUNDS, "image": PICTURES}


def check_there(path: str | Path, reason: str = "no such folder or file") -> None:
    """Raises UserError, for this reason, where nothing is there. An address of a storage (s3://) is not looked at."""
    if "://" not in str(path) and not os.path.exists(path):
        raise UserError(f"{path}: {reason}")


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
def appearing(path: Path, *, sync: bool = False, several: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to: renamed to ``path`` when the block ends, removed if it fails.

    Readers see the old file or the whole new one, never a part. A device or a pipe (such as /dev/null) is written to,
    never replaced.

    Args:
        sync: whether the content is on the disk before the rename, and the rename before this returns.
        several: whether several processes may write the path at once. If not, the temporary name is the same each time,
            so that what a killed process left is overwritten.
    """
    if path.is_char_device() or path.is_fifo():
        yield path
        return
    partly = path.with_name(f".{path.name}.{os.getpid()}.partly" if several else f".{path.name}.partly")
    try:
        yield partly
        if sync:
            _sync(partly)
        os.replace(partly, path)
    except BaseException:
        partly.unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes, *, sync: bool = False, several: bool = False) -> None:
    """Writes a file, whole or not at all; ``sync`` and ``several`` as in `appearing`."""
    with appearing(path, sync=sync, several=several) as partly:
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
    partly = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTLY}")
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

    Where a folder was renamed to make place for a new one (`appearing_folder`), and nothing has its name, the new one,
    which was complete then, gets it; without that one, the old one.

    Args:
        names: of those folders, as a glob pattern; a name that is none passes `glob.escape`.
    """
    own = f".{names}." + "[0-9a-f]" * 8  # and not those of "run.2", if the name is "run"
    for old in folder.glob(f"{own}{_OLD}"):
        place = folder / old.name[1:].removesuffix(_OLD).rpartition(".")[0]
        new = old.with_name(old.name.removesuffix(_OLD) + _PARTLY)
        if not place.exists():
            os.replace(new if new.is_dir() else old, place)
    for end in (_OLD, _PARTLY):
        for left in folder.glob(f"{own}{end}"):
            shutil.rmtree(left, ignore_errors=True)


def _take_the_place(new: Path, old: Path) -> None:
    """Gives ``new`` the name of ``old``, which is removed after that. There is a folder of that name at any moment
    where the system can exchange two names (Linux, on most file systems); elsewhere ``old`` is renamed first."""
    aside = new
    if not _exchange(new, old):
        aside = new.with_name(new.name.removesuffix(_PARTLY) + _OLD)
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
