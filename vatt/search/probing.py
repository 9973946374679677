"""Opening files before they are indexed: what each says of itself, by which its windows are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.data.config import DataConfig
from vatt.data.decode import MediaError, TimeLimit, duration_of, film_of, open_media
from vatt.data.decode.streams import sound_length, sound_of
from vatt.data.reading import bad_clip
from vatt.isolated import Failed, run_isolated
from vatt.search.listing import Entry, path_of


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
    return Probed(seconds, film, sound)


def probe_all(entries: list[Entry], workers: int) -> list[Probed | dict[str, str]]:
    """What each file says of itself, or why it cannot be opened."""
    found: dict[int, Any] = {}
    timeout = DataConfig().decode_timeout
    files = [number for number, entry in enumerate(entries) if isinstance(entry.media, Path)]
    for number, entry in enumerate(entries):
        if not isinstance(entry.media, Path) or not workers:
            found[number] = _probe_one((entry, timeout))
    if workers:
        items = [(number, entries[number], timeout) for number in files]
        # What FFmpeg has for a file that means harm is limited there: a process that crashes or hangs costs its file.
        for (number, entry, _), answer in run_isolated(
            _probe_item, items, workers=workers, seconds=2 * timeout, fork=True
        ):
            if isinstance(answer, Failed):
                answer = {"file": path_of(entry), "field": "decode", "reason": answer.reason}
            found[number] = answer
    return [found[number] for number in range(len(entries))]


def _probe_item(item: tuple[int, Entry, float]) -> Probed | dict[str, str]:
    return _probe_one(item[1:])


def _probe_one(item: tuple[Entry, float]) -> Probed | dict[str, str]:
    entry, timeout = item
    try:
        return _probe(entry, timeout)
    except Exception as error:
        bad = bad_clip(error, path_of(entry))
        return {"file": bad.file, "field": bad.field, "reason": bad.reason}
