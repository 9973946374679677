"""Captions of a video: what they are, reading them from the files beside it, and which go with a window of it."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from vatt.data.sidecars import Sidecars
from vatt.data.subtitles import clock_seconds, decode_text, read_cues
from vatt.errors import UserError, in_short
from vatt.json_files import JSONError, parse_json

_MOST = 64 * 2**20  # bytes of a caption file
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"\s*[+-]?(\d{1,40}\.?\d{0,400}|\.\d{1,400})([eE][+-]?\d{1,4})?\s*", re.ASCII)
_LISTS = ("segments", "chunks", "transcription", "captions")  # of whisper and its kin, transformers, whisper.cpp


class CaptionError(UserError, ValueError):
    """A caption file that cannot be read. The message names the file, the line and what is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(in_short(message))


@dataclass(frozen=True)
class Caption:
    """A sentence, and when it is said (seconds from the start of the video), if that is known.

    Half a character (a lone surrogate, which nothing can encode) becomes U+FFFD.
    """

    text: str
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if _SURROGATE.search(self.text):  # of 136 million captions hardly any
            object.__setattr__(self, "text", whole_characters(self.text))


def whole_characters(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text


class Narration(Sequence[Caption]):
    """The captions of one video, packed: HowTo100M has 136 million, in every process that reads clips."""

    __slots__ = ("_count", "_packed")

    def __init__(self, captions: Iterable[Caption]) -> None:
        rows = [(caption.start, caption.end, caption.text) for caption in captions]
        self._count, self._packed = len(rows), zlib.compress(json.dumps(list(zip(*rows, strict=True))).encode(), 1)

    @classmethod
    def from_packed(cls, count: int, packed: bytes) -> Narration:
        """One again from what its ``len`` and ``packed`` were."""
        made = cls.__new__(cls)
        made._count, made._packed = count, packed
        return made

    @property
    def packed(self) -> bytes:
        """The captions as compressed JSON."""
        return self._packed

    def columns(self) -> dict[str, list[Any]]:
        """As HowTo100M writes them: {start: [], end: [], text: []}."""
        return dict(
            zip(("start", "end", "text"), json.loads(zlib.decompress(self._packed)) or ([], [], []), strict=True)
        )

    def unpack(self) -> tuple[Caption, ...]:
        """All captions, in order."""
        start, end, text = self.columns().values()
        return tuple(map(Caption, text, start, end))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Caption]:
        return iter(self.unpack())

    @overload
    def __getitem__(self, index: int) -> Caption: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Caption, ...]: ...
    def __getitem__(self, index: int | slice) -> Caption | tuple[Caption, ...]:
        return self.unpack()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.unpack() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._packed)


def sidecar_of(video: Path, sidecars: Sidecars | None = None) -> Path | None:
    """The caption file of a video, see `vatt.data.sidecars`; None if there is none.

    A .txt goes before a .json that has facts about the video alone, as video2dataset and img2dataset write them.

    Args:
        sidecars: of the data set, so that a folder is listed once.
    """
    found = (Sidecars() if sidecars is None else sidecars).of(video)
    for number, path in enumerate(found):
        text = path.suffix.lower() == ".json" and any(other.suffix.lower() == ".txt" for other in found[number + 1 :])
        if not (text and _is_about(path)):
            return path
    return None


def _is_about(path: Path) -> bool:
    """Whether a .json holds facts about a video, and no list of captions. False, too, if it cannot be read."""
    try:
        content = _json(_text(path)[0], str(path))
    except CaptionError:
        return False
    times = isinstance(content, dict) and {"start", "end", "text"} <= content.keys()
    return isinstance(content, dict) and not times and not any(isinstance(content.get(key), list) for key in _LISTS)


def read_captions(path: Path) -> tuple[list[Caption], list[str]]:
    """The captions of a file, and what a person should know of it: why single ones were skipped, a guessed encoding.

    .srt, .vtt, .ass, .ssa: see `vatt.data.subtitles`. .txt holds one caption per line, without times. .json: see
    `captions_in`.

    Raises:
        CaptionError: the file cannot be read as a whole.
    """
    text, note = _text(path)
    notes = [] if note is None else [note]
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return [Caption(line.strip()) for line in text.split("\n") if line.strip()], notes
    if suffix == ".json":
        captions, skipped = captions_in(_json(text, str(path)), str(path))
    else:
        try:
            cues, skipped = read_cues(text)
        except ValueError as error:
            raise CaptionError(f"{path}: {error}; is it {path.suffix}?") from error
        captions = [Caption(cue.text, cue.start, cue.end) for cue in cues]
    return captions, notes + skipped


def _text(path: Path) -> tuple[str, str | None]:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe does not wait for its writer
        with open(handle, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise CaptionError(f"{path}: cannot read the captions: is no regular file")
            if about.st_size > _MOST:
                raise CaptionError(f"{path}: cannot read the captions: the file has {about.st_size:,} bytes")
            return decode_text(file.read(_MOST))
    except CaptionError:
        raise
    except (OSError, ValueError) as error:
        raise CaptionError(f"{path}: cannot read the captions: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text, where, surrogates=True, constant=json_constant)
    except JSONError as error:
        raise CaptionError(str(error)) from error


def json_constant(name: str) -> float | None:
    """What NaN, Infinity and -Infinity stand for in JSON: pandas writes NaN where there is no value."""
    return None if name == "NaN" else float(name)


def choose_candidates(
    captions: Sequence[Caption], start: float, end: float, count: int, rng: np.random.Generator | None
) -> list[str]:
    """Up to ``count`` sentences for the window [start, end], the best first.

    With times: the caption that overlaps the window most (nearest in time if none does), then its neighbours in time,
    nearest first (the paper's 5 nearest clips). Without times: any ``count``, drawn by ``rng``, or the first ones.
    """
    captions = tuple(captions)  # once: they may be packed
    timed = [caption for caption in captions if caption.start is not None and caption.end is not None]
    if not timed:
        chosen = list(range(len(captions)))
        if rng is not None:
            chosen = rng.permutation(len(captions)).tolist()
        return [captions[index].text for index in chosen[:count]]
    starts = np.array([caption.start for caption in timed], float)
    ends = np.array([caption.end for caption in timed], float)
    overlap = np.minimum(ends, end) - np.maximum(starts, start)  # negative: the distance to the window
    middles = (starts + ends) / 2
    best = int(np.argmax(overlap))
    if rng is not None:  # several may lie wholly inside the window: any of them is its narration
        inside = np.flatnonzero(overlap >= overlap[best] - 1e-6)
        best = int(rng.choice(inside))
    nearest = np.argsort(np.abs(middles - middles[best]), kind="stable")
    order = [best, *(int(index) for index in nearest if index != best)]
    return [timed[index].text for index in order[:count]]


def captions_in(content: Any, where: str) -> tuple[list[Caption], list[str]]:
    """The captions in the content of a .json file, and why single ones were skipped.

    A list of sentences, or of objects with text (or caption) and times: start and end, start and duration (youtube-
    transcript-api), timestamp (transformers), offsets (whisper.cpp). An object with such a list: segments (whisper,
    faster-whisper, whisperX, OpenAI's verbose_json), chunks, transcription, captions; with {start: [], end: [],
    text: []}, as HowTo100M has it; or with one caption (video2dataset, img2dataset) or text.

    Raises:
        CaptionError: it is none of these.
    """
    if isinstance(content, dict):
        content = _list_in(content, where)
    if not isinstance(content, list):
        raise CaptionError(f"{where}: expected a list of captions, or an object with segments, text or caption")
    captions: list[Caption] = []
    skipped: list[str] = []
    for number, item in enumerate(content):
        try:
            if caption := _one(item):
                captions.append(caption)
        except ValueError as error:
            skipped.append(f"item {number}: {error}")
    return captions, skipped


def _list_in(content: dict[str, Any], where: str) -> Any:
    for key in _LISTS:
        if isinstance(content.get(key), list):
            return content[key]
    if {"start", "end", "text"} <= content.keys():
        columns = [content["start"], content["end"], content["text"]]
        if not any(isinstance(column, list) for column in columns):
            return [content]
        if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
            raise CaptionError(f"{where}: start, end and text must be lists of one length")
        return [{"start": s, "end": e, "text": t} for s, e, t in zip(*columns, strict=True)]
    for key in ("caption", "text"):
        if key in content:
            return [] if content[key] is None else [content[key]]
    return None


def _one(item: Any) -> Caption | None:
    if isinstance(item, str):
        return Caption(item.strip()) if item.strip() else None
    text = item.get("text", item.get("caption")) if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"expected a sentence or an object with text, got {_short(item)}")
    if not text.strip():
        return None
    start, end = _times_of(item)
    if start is None and end is None:
        return Caption(text.strip())
    if start is None or end is None:
        raise ValueError(f"has {'an end and no start' if start is None else 'a start and no end'}")
    return timed_caption(text, start, end)


def _times_of(item: dict[str, Any]) -> tuple[Any, Any]:
    start, end = item.get("start"), item.get("end")
    if isinstance(stamp := item.get("timestamp"), list) and len(stamp) == 2:
        start, end = stamp
    elif isinstance(offsets := item.get("offsets"), dict):
        first, last = seconds_in(offsets.get("from")), seconds_in(offsets.get("to"))
        start, end = None if first is None else first / 1000, None if last is None else last / 1000
    elif end is None and (length := seconds_in(item.get("duration"))) is not None:
        first = seconds_in(start)
        end = None if first is None else first + length
    return _of_clock(start), _of_clock(end)


def _of_clock(value: Any) -> Any:
    """Seconds of a text such as 00:01:02.500; any other value as it is."""
    seconds = clock_seconds(value) if isinstance(value, str) else None
    return value if seconds is None else seconds


def timed_caption(text: str, start: Any, end: Any) -> Caption:
    """A caption from values of a file. Raises ValueError for times that are no finite numbers, or are reversed."""
    first, last = seconds_in(start), seconds_in(end)
    if first is None or last is None:
        raise ValueError(f"start {_short(start)} and end {_short(end)} must be seconds")
    if not (math.isfinite(first) and math.isfinite(last)) or first < 0:
        raise ValueError(f"start {_short(start)} and end {_short(end)} must be finite and not negative")
    if last <= first:
        raise ValueError(f"ends at {last:g} s, before its start at {first:g} s")
    return Caption(text.strip(), first, last)


def seconds_in(value: Any) -> float | None:
    """A number, or a text that is one; None for anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value) and value.strip().lower().lstrip("+-") not in _NAMED:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


_NAMED = ("nan", "inf", "infinity")  # as numbers, so that the message says that they are not finite


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
