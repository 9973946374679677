"""JSON that comes from anybody: what is refused, by which words, in little time and memory."""

from __future__ import annotations

import json
import os
import time
import tracemalloc

import pytest

from vatt.errors import UserError
from vatt.json_files import JSONError, json_line, parse_json, read_json

BAD = {
    "empty": (b"", "is not JSON: Expecting value: line 1 column 1"),
    "cut": (b'{"a": [1, 2', r"is not JSON: .*line 1"),
    "two": (b"{} {}", "is not JSON: Extra data"),
    "nan": (b'{"a": {"b": [1, NaN]}}', r"a\.b\[1\]: NaN is no number"),
    "infinity": (b'{"a": -Infinity}', "a: -Infinity is no number"),
    "too large": (b'{"a": 1e999}', "a: 1e999 is too large for a number"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "a: a number of 5000 digits"),
    "a million digits": (b"[" + b"9" * 10**6 + b"]", r"\[0\]: a number of 1000000 digits"),
    "twice": (b'{"a": {"b": 1, "b": 2}}', r"a\.b: stands there twice"),
    "surrogate": (rb'{"a": ["x\ud83d"]}', r"a\[0\]: holds half a character"),
    "surrogate key": (rb'{"a": {"\uDC80": 1}}', r"a key of a: holds half a character"),
    "latin": (b'{"a": "\xe9"}', "is not UTF-8 from byte 7 on"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "is not UTF-8 from byte 0 on"),
    "deep arrays": (b"[" * 100_000 + b"]" * 100_000, "is nested deeper than 64 levels"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested deeper than 64 levels"),
    "unclosed": (b"[" * 5_000_000, "has more than 2,000,000 objects and arrays"),
    "many": (b"[" + b"[]," * 4_000_000 + b"[]]", "has more than 2,000,000 objects and arrays"),
    "quotes": (b'"' + b'\\"' * 200_000 + b"[" * 100, "is not JSON: Unterminated string"),
    "another kind": (b"[1]", r"expected an object \{...\}, found an array"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_told_with_file_and_place(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "x.json"
    path.write_bytes(content)
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(JSONError, match=rf"x\.json: {message}") as caught:
        read_json(path, dict)
    assert time.monotonic() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 300


def test_a_file_that_is_too_large_or_no_file(tmp_path):
    (tmp_path / "large.json").write_text('"' + "x" * 200 + '"')
    with pytest.raises(JSONError, match=r"large\.json: has more than 100 bytes"):
        read_json(tmp_path / "large.json", most=100)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(JSONError, match=r"pipe\.json: is not a regular file"):
        read_json(tmp_path / "pipe.json")
    for name in (".", "absent.json"):
        with pytest.raises(OSError, match=str(tmp_path)):
            read_json(tmp_path / name)


def test_what_is_json_is_read_as_it_is(tmp_path):
    value = {"a": [1, -2.5, 1e300, True, None, "é\n[[[" * 200], "b": {"c": 10**39}, "brackets": [[]] * 100}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), "\ufeff" + json.dumps(value, indent=1)):
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        assert read_json(tmp_path / "x.json", dict) == value
    assert parse_json("[" * 64 + "]" * 64, "here") is not None
    assert parse_json(rb'"\ud83d\ude00"', "here") == "\U0001f600"


def test_names_of_files_that_are_not_utf8_come_back_where_they_are_allowed():
    name = os.fsdecode(b"caf\xe9.mp4")
    assert parse_json(json_line({"file": name}), "here", surrogates=True) == {"file": name}
    with pytest.raises(JSONError, match="faults, line 3: file: holds half a character"):
        parse_json(json_line({"file": name}), "faults, line 3")
