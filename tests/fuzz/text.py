"""Text files, mutated: captions, manifests, annotations, lists of classes and JSON, thousands of them.

Each must be read, or refused with a `UserError` that names it; no other exception, no hang, no growth of memory. What
is read must hold what others rely on: times in order, text that UTF-8 has. ``python -m tests.fuzz.text 5000 15`` tries
5000 files from seed 15; tests/fuzz/test_fuzz_text.py runs a short form.
"""

from __future__ import annotations

import json
import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.caption_cases import CASES
from tests.memory import Growth
from vatt.data.captions import Caption, choose_candidates, read_captions
from vatt.data.clips import Clip
from vatt.data.datasets import read_dataset
from vatt.data.labels import find_classes, read_classes
from vatt.data.manifest import read_clips, write_manifest
from vatt.data.splits import splits_of
from vatt.errors import UserError, printable
from vatt.json_files import read_json

SECONDS, GROWTH = 3.0, 1000  # of processor time for a file; megabytes for all
_LIMIT = 20  # seconds after which a file is a hang
FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
VIDEOS = ("a.mp4", "b.mp4", "nVC-aaaaaaa.mp4", "--PJHxphWEs.mkv", "video0.mp4", "v_Archery_g01_c01.avi", "5-1.wav")

Read = Callable[[Path], object]

_SEGMENT = {"id": 0, "start": 0.0, "end": 2.5, "text": " hello there", "words": [{"word": "hello", "start": 0.0}]}
_JSON: list[Any] = [
    {"text": " hello there", "segments": [_SEGMENT, _SEGMENT | {"start": 2.5, "end": 4}], "language": "en"},
    {"start": [0, 2], "end": [1, 3.5], "text": ["a", "grün 🎈"]},
    [{"text": "a", "start": 0, "duration": 1.5}, {"caption": "b", "timestamp": [1.0, None]}, "c"],
    {"url": "http://x", "caption": "a dog runs", "key": "0", "status": "success", "width": 3},
    {"transcription": [{"offsets": {"from": 0, "to": 2000}, "text": "x"}]},
]
_ROWS = [
    {"video": "a.mp4", "start": 0, "end": 2.5, "caption": 'one, "two"', "label": "x|y", "split": "train", "mood": "ä"},
    {"video": "b.mp4", "start": "1", "end": "3", "caption": "three\nfour 🎈", "label": "z", "split": "val", "mood": ""},
]


def _table(separator: str) -> bytes:
    def quoted(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    lines = [separator.join(_ROWS[0])] + [separator.join(map(quoted, row.values())) for row in _ROWS]
    return "\n".join(lines).encode()


def seeds() -> list[tuple[str, str, bytes]]:
    """(kind, name of the file, its bytes): what is mutated."""
    found = [("captions", case.name, case.content) for case in CASES.values()]
    found += [("captions", "a.json", json.dumps(content, ensure_ascii=False).encode()) for content in _JSON]
    found += [("captions", "a.txt", "one\n\n two grün\n".encode())]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in _ROWS).encode()
    packed = json.dumps({"video": "a.mp4", "captions": _JSON[1]}).encode()
    found += 8 * [
        ("manifest", "m.csv", _table(",")),
        ("manifest", "m.tsv", _table("\t")),
        ("manifest", "m.jsonl", lines),
    ]
    found += 4 * [("manifest", "m.jsonl", packed), ("classes", "classes.txt", b"a\nb\nc d\n")]
    found += 4 * [("json", "x.json", json.dumps(_JSON).encode())]
    for path in sorted(FIXTURES.glob("*/*")):
        if path.is_file() and path.suffix in (".csv", ".json", ".txt"):
            found.append((path.parent.name, path.name, path.read_bytes()))
    return found


_PIECES = [
    *rb""", "" " ' | : ; % \ \n \" { } [ ] [[ {"a": null true NaN Infinity -1 1e999 1e308 0x10 1_0 nan inf \ud83d \u0000
    < > </i> <v <c. {\an8} &# &amp; &#x110000; --> -> WEBVTT NOTE STYLE [Script Info] [Events] Dialogue: 00:00:01,000
    video caption captions label start end split text segments""".split(),
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\x1a", b"\x1b[31m", b"\x85"),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b" \n", b"\t", b" ", b"\n00:00:01,000 --> 00:00:02,000\n"),
]


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes of a file, changed in one to six places."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 40, 4000)))
        match rng.randrange(10):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 2 if data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
            case 3:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 64))))
            case 4:
                del data[at:]
            case 5:
                data[at:end] = other[: rng.randrange(len(other) + 1)]
            case 6:  # a number becomes another one
                digits = rng.choice(
                    (b"9" * 400, b"9" * 5000, b"1e400", b"-0.0", b"NaN", b'"7"', b"[7]", b"null", b"{}")
                )
                places = [n for n, byte in enumerate(data) if 48 <= byte < 58]
                if places:
                    place = rng.choice(places)
                    data[place : place + 1] = digits
            case 7:  # much of one thing
                data[at:at] = rng.choice(_PIECES) * rng.choice((3, 100, 20_000))
            case 8:
                changed = data.decode("utf-8", "replace").encode(
                    rng.choice(("utf-16", "utf-16-be", "utf-32", "utf-8-sig"))
                )
                data = bytearray(changed if rng.random() < 0.5 else changed[2:])
            case _:
                data[at:at] = rng.choice(_PIECES)
        del data[4_000_000:]
    return bytes(data)


def _captions(path: Path) -> None:
    captions, notes = read_captions(path)
    _check_captions(captions)
    for text in notes:
        printable(text).encode()
    choose_candidates(captions, 0.5, 3.7, 5, None)


def _check_captions(captions: Any) -> None:
    for one in captions:
        assert isinstance(one, Caption)
        one.text.encode()
        assert one.text.strip()
        assert (one.start is None) == (one.end is None)
        if one.start is not None and one.end is not None:
            assert 0 <= one.start < one.end < math.inf


def _manifest(path: Path) -> None:
    found = read_clips(path)
    for clip in found.clips:
        assert isinstance(clip, Clip)
        _check_captions(clip.captions)
        assert clip.start is None or 0 <= clip.start < math.inf
        assert clip.end is None or (clip.start or 0) < clip.end < math.inf
        for text in (clip.label or "", clip.split or "", *clip.extra.values()):
            text.encode()
    json.dumps(found.skipped)
    splits_of(found.clips)
    if len(found.clips) > 1:
        try:
            find_classes(found.clips, str(path))
        except UserError:
            return


def _dataset(name: str, path: Path) -> None:
    annotations = [other for other in sorted((FIXTURES / name).glob("*.*")) if other.name != path.name]
    for given in ([path], [path, *annotations]):
        try:
            found = read_dataset(name, given, path.parent)
            printable(found.summary(), keep="\n").encode()
            if found.rows:
                write_manifest(found.rows, path.parent / "out.jsonl")
                _manifest(path.parent / "out.jsonl")
        except UserError as error:
            if len(str(error)) > 2000:
                raise AssertionError(f"a message of {len(str(error))} characters") from error


def _reader(kind: str) -> Read:
    known: dict[str, Read] = {"captions": _captions, "manifest": _manifest, "classes": read_classes, "json": read_json}
    return known.get(kind) or (lambda path: _dataset(kind, path))


def _hung(*_: object) -> None:
    raise TimeoutError(f"took more than {_LIMIT} s")


def try_one(read: Read, path: Path) -> str | None:
    """What is wrong with how a file is read, in words; None: it is read or refused as it should be."""
    began = time.process_time()
    signal.alarm(_LIMIT)
    try:
        read(path)
    except UserError as error:
        if path.name not in str(error):
            return f"does not name the file: {printable(error)[:200]}"
        if len(str(error)) > 2000:
            return f"a message of {len(str(error))} characters: {printable(error)[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {printable(error)[:200]}"
    finally:
        signal.alarm(0)
    taken = time.process_time() - began
    return f"took {taken:.1f} s" if taken > SECONDS else None


def main(count: int, seed: int) -> int:
    """Tries ``count`` files; 1 if any was not read or refused as it should be."""
    every, findings, done = seeds(), 0, Counter[str]()
    longest, memory = 0.0, Growth()
    print(f"seed {seed}")
    old = signal.signal(signal.SIGALRM, _hung)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in VIDEOS:
                Path(folder, name).write_bytes(b"x")
            for number in range(count):
                rng = random.Random(f"{seed} {number}")
                kind, name, content = every[rng.randrange(len(every))]
                path = Path(folder, name)
                path.write_bytes(mutate(content, rng.choice(every)[2], rng))
                began = time.process_time()
                wrong = try_one(_reader(kind), path)
                longest = max(longest, time.process_time() - began)
                done[kind] += 1
                if wrong is not None:
                    findings += 1
                    print(f"seed {seed}, file {number}: {kind} {name}: {wrong}")
                path.unlink()
    finally:
        signal.signal(signal.SIGALRM, old)
    growth = memory.megabytes() or 0.0
    if growth > GROWTH:
        findings += 1
        print(f"memory grew by {growth:.0f} MB")
    print(", ".join(f"{kind} {number}" for kind, number in sorted(done.items())))
    print(f"{count} files, {findings} findings, largest growth {growth:.0f} MB, longest {longest:.2f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
