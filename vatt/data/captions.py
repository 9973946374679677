"""Captions beside a video (.srt, .vtt, .json, .txt), and which of them go with a window of it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from vatt.errors import UserError

SIDECARS = (".srt", ".vtt", ".json", ".txt")
_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


class CaptionError(UserError, ValueError):
    """A caption file that cannot be read. The message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class Caption:
    """A sentence, and when it is said (seconds from the start of the video), if that is known."""

    text: str
    start: float | None = None
    end: float | None = None


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


def sidecar_of(video: Path) -> Path | None:
    """The caption file of the same stem: the first of .srt, .vtt, .json and .txt that exists."""
    return next((path for suffix in SIDECARS if (path := video.with_suffix(suffix)).is_file()), None)


def read_captions(path: Path) -> tuple[list[Caption], list[str]]:
    """The captions of a file, and why single cues were skipped.

    .json holds a list of sentences, a list of {text or caption, start, end}, or {start: [], end: [], text: []} as
    HowTo100M has it. .txt holds one caption per line, without times.

    Raises:
        CaptionError: the file cannot be read as a whole.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionError(f"{path}: cannot read the captions: {error}") from error
    if path.suffix == ".txt":
        return [Caption(line.strip()) for line in text.split("\n") if line.strip()], []
    if path.suffix == ".json":
        return _from_json(path, text)
    return _from_cues(path, text)


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


def _from_cues(path: Path, text: str) -> tuple[list[Caption], list[str]]:
    """SubRip and WebVTT: blocks with a line of two stamps and the words below it."""
    captions: list[Caption] = []
    skipped: list[str] = []
    lines = text.splitlines()
    cues = [number for number, line in enumerate(lines) if "-->" in line]
    if not cues and text.strip() and text.strip() != "WEBVTT":
        raise CaptionError(f"{path}: has no line with '-->'; is it {path.suffix}?")
    for number in cues:
        match = _CUE.match(lines[number])
        if not match:
            skipped.append(f"line {number + 1}: cannot read the times {lines[number].strip()!r}")
            continue
        start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
        if end <= start:
            skipped.append(f"line {number + 1}: ends at {end:g} s, before its start at {start:g} s")
            continue
        words = []
        for line in lines[number + 1 :]:
            if not line.strip():
                break
            words.append(_TAG.sub("", line).strip())
        if sentence := " ".join(word for word in words if word):
            captions.append(Caption(sentence, start, end))
    return captions, skipped


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _from_json(path: Path, text: str) -> tuple[list[Caption], list[str]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CaptionError(f"{path}: is not JSON: {error}") from error
    return captions_in(content, str(path))


def captions_in(content: Any, where: str) -> tuple[list[Caption], list[str]]:
    """The captions in the content of a .json file, and why single ones were skipped. Raises CaptionError."""
    if isinstance(content, dict) and {"start", "end", "text"} <= content.keys():
        columns = [content["start"], content["end"], content["text"]]
        if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
            raise CaptionError(f"{where}: start, end and text must be lists of one length")
        content = [{"start": s, "end": e, "text": t} for s, e, t in zip(*columns, strict=True)]
    if not isinstance(content, list):
        raise CaptionError(f"{where}: expected a list of captions, or start, end and text")
    captions: list[Caption] = []
    skipped: list[str] = []
    for number, item in enumerate(content):
        try:
            if caption := _one(item):
                captions.append(caption)
        except ValueError as error:
            skipped.append(f"item {number}: {error}")
    return captions, skipped


def _one(item: Any) -> Caption | None:
    if isinstance(item, str):
        return Caption(item.strip()) if item.strip() else None
    if not isinstance(item, dict) or not isinstance(text := item.get("text", item.get("caption")), str):
        raise ValueError(f"expected a sentence or an object with text, got {item!r:.60}")
    start, end = item.get("start"), item.get("end")
    if start is None or end is None:
        return Caption(text.strip()) if text.strip() else None
    return timed_caption(text, start, end) if text.strip() else None


def timed_caption(text: str, start: Any, end: Any) -> Caption:
    """A caption from values of a file. Raises ValueError for times that are no finite numbers, or are reversed."""
    try:
        first, last = float(start), float(end)
    except (TypeError, ValueError):
        raise ValueError(f"start {start!r} and end {end!r} must be seconds") from None
    if not (np.isfinite(first) and np.isfinite(last)) or first < 0:
        raise ValueError(f"start {start!r} and end {end!r} must be finite and not negative")
    if last <= first:
        raise ValueError(f"ends at {last:g} s, before its start at {first:g} s")
    return Caption(text.strip(), first, last)
