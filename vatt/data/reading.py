"""Reading one clip: whatever goes wrong with it makes it a bad clip, named by file and field, and never ends a job.

Every place that reads clips goes through `one_clip`, or through `bad_clip` where it has a file and no clip. An error
that no reader is known to raise is a bad clip, too: its reason names the type, and the line of this project that it
comes from. It counts against ``data.max_bad_share``, so a fault of ours that spoils many clips still ends the job.

What is wrong with the machine is no bad clip, and ends the job at once: too many files are open, or all of the files
have gone.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vatt.data.clips import Clip, ClipTable
from vatt.data.decode import MediaError
from vatt.errors import UserError
from vatt.files import TREE
from vatt.limits import TooFewFiles, no_more_files

# What opening a file says that is not there, or on a disk that does not answer.
_ABSENT = (
    "no such file",
    *(
        os.strerror(getattr(errno, name))
        for name in ("ENOENT", "EACCES", "EIO", "ESTALE", "ENOTCONN", "ENXIO", "ENODEV")
    ),
)
_LOOKED_FOR = 20  # files, evenly spread, of which one is enough to say that a missing one alone is missing


class Vanished(UserError, RuntimeError):
    """The files of a data set were there when the job began and are not any more, as of a disk that was unmounted."""


def bad_clip(error: Exception, file: Path | str, field: str = "decode") -> MediaError:
    """What went wrong with a file, as the error that all jobs take for a bad clip.

    Args:
        error: what reading it raised, of any kind.
        file, field: told where the error does not name them itself.

    Raises:
        TooFewFiles, Vanished: it is not the fault of the file.
    """
    if isinstance(error, TooFewFiles | Vanished):
        raise error
    if any(number in (errno.EMFILE, errno.ENFILE) for number in _system_errors(error)):
        raise no_more_files(str(file)) from error
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return MediaError(file, field, "takes more memory than there is, or than a reading process may have")
    if isinstance(error, MediaError):
        return error
    if isinstance(error, UserError):  # such as a label that is not one
        return MediaError(file, field, str(error).removeprefix(f"{file}: "))
    words = " ".join(str(error).split())
    return MediaError(file, field, f"{type(error).__name__}: {words}"[:300] + _place(error))


@contextmanager
def one_clip(clips: Sequence[Clip], number: int, name: str) -> Iterator[Clip]:
    """Clip ``number`` of ``clips``, to be read in the block.

    Args:
        name: of the data set.

    Raises:
        MediaError: whatever finding or reading it raised. TooFewFiles.
    """
    file: Path | str = f"{name}, clip {number}"
    try:
        clip = clips[number]
        file = clip.video
        yield clip
    except Exception as error:
        bad = bad_clip(error, file)
        if bad is error:
            raise
        raise bad from error


def check_there(clips: Sequence[Clip], file: Path | str, reason: str, name: str) -> None:
    """To be called for a bad clip of a data set that was there when the job began.

    Raises:
        Vanished: its ``reason`` is that ``file`` cannot be found, and none of others, evenly spread, is there, either.
    """
    if isinstance(clips, ClipTable):
        if clips.is_there():
            return
    elif not is_lost(file, reason) or any(
        os.path.exists(clips[number].video) for number in range(0, len(clips), max(1, len(clips) // _LOOKED_FOR))
    ):
        return
    raise vanished(name, file)


def is_lost(file: Path | str, reason: str) -> bool:
    """Whether a bad file is not to be found, or not to be reached."""
    return any(words in reason for words in _ABSENT) and not os.path.exists(file)


def vanished(name: str, file: Path | str) -> Vanished:
    """The error of a job whose data set ``name`` has gone, ``file`` with it."""
    return Vanished(
        f"{name}: its files are not there any more, such as {file}; is the disk still mounted? What was done so far is "
        "kept: go on when they are back"
    )


def _system_errors(error: BaseException | None) -> list[int]:
    """The numbers of the system's errors that have led to an error."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return [each.errno for each in chain if isinstance(each, OSError) and each.errno]


def _place(error: Exception) -> str:
    """Where in this project an unexpected error comes from."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(TREE) and path != Path(__file__) and "site-packages" not in path.parts:
            return f" (unexpected, in {path.relative_to(TREE).as_posix()}, line {frame.lineno})"
    return " (unexpected)"
