"""Opening files before they are indexed: what each says of itself, by which its windows are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vatt.data.config import DataConfig
from vatt.data.decode import MediaError, TimeLimit, duration_of, film_of, open_media
from vatt.data.decode.streams import sound_length, sound_of
from vatt.data.reading import bad_clip
from vatt.isolated import Failed, run_isolated
from vatt.json_files import JSONError, json_line, parse_json
from vatt.search.format import MOST_SECONDS
from vatt.search.listing import Entry, path_of

OPENED = "opened.jsonl"  # beside the segments of an index that is being made
Opening = Callable[[int, int, int, str], object]  # files done, files in all, faults so far, what is done to them
_LINE = 1 << 12  # bytes that a line has at most


@dataclass(frozen=True)
class Probed:
    """What a file says of itself: seconds (0: not known), and what it has."""

    seconds: float
    picture: bool
    sound: bool


def _probe(entry: Entry, timeout: float) -> Probed:
    """Opens a file. Raises MediaError: it is no film, sound or picture that can be read."""
    if not isinstance(entry.media, Path):
        packed = entry.media
        return Probed(packed.duration or packed.sound or 0.0, entry.kind != "audio", packed.sound is not None)
    if entry.kind == "image":
        return Probed(0.0, True, False)
    path, limit = entry.media, TimeLimit(entry.media, timeout)
    with open_media(path, entry.kind, limit=limit) as container:
        film = entry.kind == "video" and film_of(container) is not None
        sound = sound_of(container) is not None
        if not film and not sound:
            raise MediaError(path, entry.kind, "the file has no film and no sound")
        seconds = duration_of(container, path, limit) if film else sound_length(container, path, limit)[0]
    if not 0 <= seconds < MOST_SECONDS:
        raise MediaError(path, "duration", f"{seconds:g} s is no length of a file")
    return Probed(seconds, film, sound)


class OpenedFiles:
    """What files said of themselves, a line of JSON each, kept until an index is up to date: a job that goes on after a
    kill opens none of them twice. Those that cannot be opened are tried again.

    Args:
        path: of this list; it need not be there. A line that was cut off, or is no such line, counts as none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = dict(_read_lines(path))

    def probe(self, entries: list[Entry], workers: int, opening: Opening) -> list[Probed | dict[str, str]]:
        """What each file says of itself, or why it cannot be opened: {"file", "field", "reason"}."""
        found: dict[int, Any] = {}
        faults = 0
        left = list[tuple[int, Entry]]()
        for number, entry in enumerate(entries):
            if (known := self._known.get(entry.id)) is not None:
                found[number] = known
            elif isinstance(entry.media, Path):
                left.append((number, entry))
            else:
                found[number] = _probe_one((entry, 0.0))
        if not left:
            return [found[number] for number in range(len(entries))]
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write("\n")  # after a line that was cut off
            for number, answer in _answers(left, workers):
                found[number] = answer
                faults += not isinstance(answer, Probed)
                if isinstance(answer, Probed):
                    lines.write(json_line({"id": entries[number].id} | asdict(answer)) + "\n")
                    lines.flush()  # which a kill does not undo
                opening(len(found), len(entries), faults, "files opened")
        return [found[number] for number in range(len(entries))]

    def forget(self) -> None:
        """All is done."""
        self.path.unlink(missing_ok=True)


def _read_lines(path: Path) -> Iterator[tuple[str, Probed]]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in iter(partial(lines.readline, _LINE), b""):
            try:
                found = parse_json(line, str(path), dict)
                probed = Probed(found["seconds"], found["picture"], found["sound"])
            except (JSONError, KeyError):
                continue
            flags = isinstance(probed.picture, bool) and isinstance(probed.sound, bool)
            if flags and isinstance(probed.seconds, int | float) and 0 <= probed.seconds < MOST_SECONDS:
                yield str(found.get("id")), probed


def _answers(left: list[tuple[int, Entry]], workers: int) -> Iterator[tuple[int, Probed | dict[str, str]]]:
    """As they finish."""
    timeout = DataConfig().decode_timeout
    if not workers:
        for number, entry in left:
            yield number, _probe_one((entry, timeout))
        return
    items = [(number, entry, timeout) for number, entry in left]
    # What FFmpeg has for a file that means harm is limited there: a process that crashes or hangs costs its file.
    for (number, entry, _), answer in run_isolated(_probe_item, items, workers=workers, seconds=2 * timeout, fork=True):
        if isinstance(answer, Failed):
            answer = {"file": path_of(entry), "field": "decode", "reason": answer.reason}
        yield number, answer


def _probe_item(item: tuple[int, Entry, float]) -> Probed | dict[str, str]:
    return _probe_one(item[1:])


def _probe_one(item: tuple[Entry, float]) -> Probed | dict[str, str]:
    entry, timeout = item
    try:
        return _probe(entry, timeout)
    except Exception as error:
        bad = bad_clip(error, path_of(entry))
        return {"file": bad.file, "field": bad.field, "reason": bad.reason}
