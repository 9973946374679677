"""Names of files and captions reach a terminal without escape codes; what is written to files keeps the real names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from vatt.__main__ import main
from vatt.cli.progress import listed
from vatt.data.check import write_skipped
from vatt.data.datasets import DatasetRows
from vatt.data.skipped import SkipLog
from vatt.errors import in_short, printable

ROOT = Path(__file__).resolve().parents[2]
NAME = "\x1b]0;title\x07red\x1b[31m\r\u202e\udcff.mp4"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('plain, grün, 猫 🎈 it\'s "so" \\n', 'plain, grün, 猫 🎈 it\'s "so" \\n'),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\r\nb\tc\x00\x7f\x9b", "a\\r\\nb\\tc\\x00\\x7f\\x9b"),
        ("\u2028\u202e\u2066", "\\u2028\\u202e\\u2066"),
        (os.fsdecode(b"bad\xff.mp4"), "bad\\udcff.mp4"),
        ("half \ud83d", "half \\ud83d"),
        (Path("a") / "b", f"a{os.sep}b"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    shown.encode()
    assert printable("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"


def test_a_long_message_keeps_its_ends():
    assert in_short("x" * 1000) == "x" * 1000
    cut = in_short(f"m.csv, line 2: {'x' * 100_000} is no label")
    assert len(cut) < 1000
    assert cut.startswith("m.csv, line 2: xxx")
    assert cut.endswith("xxx is no label")


def test_names_of_bad_files_are_shown_without_codes_and_kept_in_reports(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / NAME)]) == 1
    said = capsys.readouterr().err
    assert printable(NAME) in said
    assert said == printable(said, keep="\n")
    record = {"file": NAME, "field": "decode", "reason": f"{NAME} is none"}
    shown = listed([record])
    assert shown.count(printable(NAME)) == 2
    assert shown == printable(shown, keep="\n")
    write_skipped([record], tmp_path / "faults.jsonl")
    assert json.loads((tmp_path / "faults.jsonl").read_text()) == record
    log = SkipLog(None, 1.0)
    log.note([record])
    assert printable(NAME) in log.summary()
    assert NAME not in log.summary()
    rows = DatasetRows([], [NAME], [NAME], [NAME]).summary()
    assert rows.count(printable(NAME)) == 3
    assert rows == printable(rows, keep="\n")


def test_whoever_prints_an_error_makes_it_printable():
    for folder in ("vatt", "train", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not re.search(r'print\(f?"(error|warning):? [^"]*\{(?!printable)', line), f"{path}: {line}"
