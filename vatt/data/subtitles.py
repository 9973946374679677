"""Subtitle files to cues: SubRip (.srt), WebVTT (.vtt) and SubStation Alpha (.ass, .ssa), as tools write and editors
break them. tests/data/caption_cases.py has the cases.

Why a parser of our own: of the 58 cases there, pysubs2 1.8.1 reads 31, and 40 behind 15 lines of ours; webvtt-py 0.6.0
reads 30 (November 2026). pysubs2 needs hours and fractions, takes words that begin with < for tags, cues in a NOTE for
captions, and STYLE, REGION and NOTE blocks for words of the cue before; a negative time loses its sign, hours above 99
their first digit; nothing is skipped with a reason. webvtt-py cuts times to whole seconds, and refuses a file without
counters. Neither knows captions that roll, or a file that is not UTF-8.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Cue(NamedTuple):
    """Words, and when they are shown (seconds)."""

    start: float
    end: float
    text: str


@dataclass
class _Block:
    """A cue while it is read: the number of its line of times, and its lines; ``fault``: why it cannot be used."""

    number: int
    start: float = 0.0
    end: float = 0.0
    fault: str = ""
    lines: list[str] = field(default_factory=list)


_STAMP = r"(-?)(?:(\d{1,4})\s?:\s?)?(\d{1,3})\s?:\s?(\d{1,2})(?:\s?[.,:]\s?(\d{1,9}))?"
_TIMES = re.compile(rf"\s*{_STAMP}\s*-{{1,3}}>\s*{_STAMP}(?![\d:.,])")
_ONE_TIME = re.compile(rf"\s*{_STAMP}\s*")
_LIKE_TIME = re.compile(r"\d\s?[:.,]\s?\w")
_NO_CUE = re.compile(r"WEBVTT(?:\s|$)|(NOTE(?:\s|$)|(?:STYLE|REGION)\s*$)")
_COUNTER = re.compile(r"\s*\d{1,9}\s*")

# What may be a tag is short and on one line; whether it is one, its name decides: "a < b" and "x<y>z" are words.
_ANGLES = re.compile(r"<[^<>\n]{1,400}>")
_TAG = re.compile(
    r"/?(?:(?:b|i|u|s|c|ruby|rt|font|span|em|strong|small|big|tt|sub|sup|strike|del|ins|center|h[1-6]|html|body|a)"
    r"(?:\.\S*)?(?:\s+[\w:-]+\s*=.*)?\s*/?|(?:v|lang)(?:[.\s].*)?|(?:\d{1,4}:)?\d{1,2}:\d{2}[.,]\d{1,3})",
    re.IGNORECASE,
)
_BREAK = re.compile(r"/?(?:br|p|div)(?:\s.*)?/?", re.IGNORECASE)
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")  # {\an8}
_BREAK_OF_ASS = re.compile(r"(?<!:)\\N")  # a line break, to FFmpeg, too; C:\New is a path
_LONG_ENTITY = re.compile(r"&#(?:\d{8,}|[xX][\da-fA-F]{8,});?")  # no character; html.unescape fails for 4,301 digits
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u00ad]")  # joiners have a meaning
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_BINARY = re.compile("[\x00-\x08\x0e-\x19\x1c-\x1f]")
_MOST = 8  # lines that roll
_GAP = 0.25  # seconds between a caption and the next one into which it rolls
_FLASH = 0.05  # seconds: no caption for a reader, but the step of captions that roll (YouTube: 10 ms)

_BOMS = (
    *((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be")),
    *((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")),
)


def decode_text(raw: bytes) -> tuple[str, str | None]:
    """The text of a file, with newlines as line breaks, and what a person should know of its encoding, if anything.

    UTF-8, UTF-16 and UTF-32 by their byte order mark; UTF-8 and UTF-16 without; else Windows-1252, which is Latin-1
    with quotation marks, where most letters are ASCII then.

    Raises:
        ValueError: it is in another encoding, damaged, or no text.
    """
    note = None
    for mark, name in _BOMS:
        if raw.startswith(mark):
            text = raw[len(mark) :].decode(name)
            break
    else:
        head = raw[:4096]
        zeros = head[::2].count(0), head[1::2].count(0)
        if 5 * max(zeros) > 2 * (len(head) // 2) and 10 * min(zeros) < max(zeros):
            text = raw.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le")
        else:
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                text = _western(raw)
                note = "is not UTF-8; read as Windows-1252 (Latin-1)"
    text = text.rstrip("\0\x1a")
    if len(_BINARY.findall(text)) > len(text) // 100:
        raise ValueError("is not text")
    return text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n"), note


def _western(raw: bytes) -> str:
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    foreign = sum(letter > "\x7f" for letter in text)
    if 3 * foreign >= 2 * sum(letter.isascii() and letter.isalpha() for letter in text):
        raise ValueError("is not UTF-8, and not Latin-1 either: save it as UTF-8")
    return text


def read_cues(text: str) -> tuple[list[Cue], list[str]]:
    """The cues in the text of a subtitle file, ordered by their start, and why single ones were left out.

    The format is what the text says, whatever the name of the file. Words that come again in the next cue, as automatic
    captions roll, are taken once. A file that is empty, or has a header alone, has no cues.

    Raises:
        ValueError: it is no subtitle file.
    """
    lines = text.split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.lower() == "[script info]":
        return _from_ass(lines)
    webvtt = re.match(r"WEBVTT(\s|$)", first) is not None
    blocks, faults = _webvtt(lines) if webvtt else _subrip(lines)
    if not blocks and first and not webvtt:
        raise ValueError("has no line of times with '-->'")
    cues: list[tuple[_Block, list[str]]] = []
    for block in blocks:
        if block.fault:
            faults.append(block.fault)
        elif said := [words for line in block.lines if (words := plain_words(line))]:
            cues.append((block, said))
    made = [Cue(block.start, block.end, " ".join(said)) for block, said in _unrolled(cues) if said]
    return sorted(made, key=lambda cue: cue.start), faults


def plain_words(line: str) -> str:
    """The words of a line: without tags and styling, entities as the characters they mean, single spaces."""
    line = _ANGLES.sub(_without_tag, _BREAK_OF_ASS.sub(" ", _OVERRIDE.sub("", line)))
    if "&" in line:
        line = html.unescape(_LONG_ENTITY.sub("\ufffd", line))
    return " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", line)).split())


def _without_tag(found: re.Match[str]) -> str:
    inside = found[0][1:-1]
    if _BREAK.fullmatch(inside):
        return " "
    return "" if _TAG.fullmatch(inside) else found[0]


def _times(line: str, number: int) -> _Block | None:
    """The block that a line of times begins; None if it is no such line."""
    if "->" not in line:
        return None
    found = _TIMES.match(line)
    if found is None:
        before, arrow, after = line.partition("-->")
        if not arrow or not (_LIKE_TIME.search(before[-100:]) and _LIKE_TIME.search(after[:100])):
            return None  # words with an arrow
        return _Block(number, fault=f"line {number}: cannot read the times {line.strip()[:80]!r}")
    start, end = _seconds(found.groups()[:5]), _seconds(found.groups()[5:])
    fault = ""
    if found[1] or found[6]:
        fault = f"line {number}: has a negative time"
    elif end < start:
        fault = f"line {number}: ends at {end:g} s, before its start at {start:g} s"
    elif end == start:
        fault = f"line {number}: ends where it starts, at {start:g} s"
    return _Block(number, start, end, fault)


def clock_seconds(text: str) -> float | None:
    """Seconds of a time as subtitles have it, 00:01:02,500; None for any other text, and for negative ones."""
    found = _ONE_TIME.fullmatch(text)
    return None if found is None or found[1] else _seconds(found.groups())


def _seconds(parts: tuple[str | None, ...]) -> float:
    """Of a sign, hours, minutes, seconds and decimals, as they stand in the file."""
    _, hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")


def _subrip(lines: list[str]) -> tuple[list[_Block], list[str]]:
    """A cue goes on to the next line of times, blank lines or not; a counter right before that is no part of it."""
    blocks: list[_Block] = []
    before: list[str] = []  # lines above the first cue
    gap: int | None = None  # blank lines between a counter and its times; None: no counters
    for number, line in enumerate(lines, start=1):
        block = _times(line, number)
        if block is None:
            (blocks[-1].lines if blocks else before).append(line)
            continue
        rest = blocks[-1].lines if blocks else before
        blank = next((n for n, above in enumerate(reversed(rest)) if above.strip()), len(rest))
        if blank < len(rest) and _COUNTER.fullmatch(rest[-1 - blank]):
            if not blocks:
                gap = blank
            if gap is not None and blank <= gap:
                del rest[len(rest) - 1 - blank :]
        blocks.append(block)
    lost = next((number for number, line in enumerate(before, start=1) if line.strip()), None)
    return blocks, [f"line {lost}: words above the first cue"] if blocks and lost else []


def _webvtt(lines: list[str]) -> tuple[list[_Block], list[str]]:
    """An empty line ends a cue (one of spaces does not: YouTube writes those); comments and styles end there, too."""
    blocks: list[_Block] = []
    faults: list[str] = []
    inside: _Block | None = None
    outside: list[int] = []  # lines of a block that is no cue yet: the name of the next one, or lost words
    skipped = ""  # "header" or "comment" while such a block is read
    numbered: bool | None = None  # whether cues have numbers

    def end_block() -> None:
        if outside:
            faults.append(f"line {outside[0]}: words outside of a cue")
        outside.clear()

    for number, line in enumerate(lines, start=1):
        if not line or (inside is None and not line.strip()):
            end_block()
            inside, skipped = None, ""
        elif skipped == "comment":  # also one that hides a cue
            continue
        elif (block := _times(line, number)) is not None:
            above = inside.lines if inside is not None else [lines[at - 1] for at in outside]
            counter = bool(above) and _COUNTER.fullmatch(above[-1]) is not None
            numbered = counter if numbered is None else numbered
            if inside is None:
                del outside[-1:]  # the name of the cue
            elif above and ((numbered and counter) or (len(above) > 1 and not above[-2].strip())):
                del above[-1]
            end_block()
            blocks.append(block)
            inside, skipped = block, ""
        elif inside is not None:
            inside.lines.append(line)
        elif not (skipped or outside) and (header := _NO_CUE.match(line)):
            skipped = "comment" if header[1] else "header"
        elif not skipped:
            outside.append(number)
    end_block()
    return blocks, faults


def _unrolled(cues: list[tuple[_Block, list[str]]]) -> list[tuple[_Block, list[str]]]:
    """Cues without the lines that were in the cue right before already, if this is how the file shows its captions."""
    carried: list[int] = [0]  # lines at the start of each cue that the one before ends with
    flashes = [number for number, (block, _) in enumerate(cues) if block.end - block.start <= _FLASH]
    rolls = any(number and cues[number][1] == cues[number - 1][1][-len(cues[number][1]) :] for number in flashes)
    for (above, old), (block, new) in pairwise(cues):
        near = above.start <= block.start <= (math.inf if rolls else above.end + _GAP)  # over a silence, too
        most = min(len(old), len(new), _MOST) if near else 0
        carried.append(next((count for count in range(most, 0, -1) if old[-count:] == new[:count]), 0))
    grown = any(0 < count < len(said) for count, (_, said) in zip(carried, cues, strict=False))
    if not (rolls or grown) or 2 * sum(map(bool, carried)) < len(cues) - 1:  # a "no" that is said twice stays
        return cues
    return [(block, said[count:]) for count, (block, said) in zip(carried, cues, strict=True)]


def _from_ass(lines: list[str]) -> tuple[list[Cue], list[str]]:
    columns = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
    cues: dict[Cue, None] = {}  # each once: a line and its shadow say the same
    faults: list[str] = []
    section, begun = "", False
    for number, line in enumerate(lines, start=1):
        kind, _, content = line.strip().partition(":")
        if kind.startswith("["):
            section = kind.strip().lower()
            begun = begun or section == "[events]"
        elif section != "[events]":
            continue
        elif kind == "Format":
            columns = [name.strip().lower() for name in content.split(",")]
        elif kind == "Dialogue":
            row = dict(zip(columns, content.split(",", len(columns) - 1), strict=False))
            start, end = (clock_seconds(row.get(name, "")) for name in ("start", "end"))
            if start is None or end is None:
                faults.append(f"line {number}: cannot read the times {line.strip()[:80]!r}")
                continue
            text = row.get("text", "")
            if "\\p" in text and re.search(r"\{[^{}]*\\p[1-9]", text):  # a drawing
                continue
            text = re.sub(r"\\[Nnh]", " ", re.sub(r"\{[^{}]*\}", "", text))
            cue = Cue(start, end, " ".join(_CONTROL.sub(" ", text).split()))
            if cue.end <= cue.start:
                faults.append(f"line {number}: ends at {cue.end:g} s, not after its start at {cue.start:g} s")
            elif cue.text:
                cues[cue] = None
    if not begun:
        raise ValueError("has no section [Events]")
    return sorted(cues, key=lambda cue: cue.start), faults
