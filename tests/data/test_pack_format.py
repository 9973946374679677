"""index.json and the lines of shard-*.jsonl: what is written comes back, and each fault names file, line and field."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vatt.data.captions import Caption
from vatt.data.shards.format import Index, Settings, Shard, ShardError, read_index, shard_names
from vatt.data.shards.lines import PieceLine, RowLine, SourceLine, read_sources

SHA = "0123456789abcdef" * 4
SETTINGS = Settings(256, 10, 3.2, 60.0, 10**8, 48000, "mpeg4 q=3", "pcm_s16le", "mjpeg q=2")


def index() -> Index:
    names = [shard_names(0), shard_names(0, 1), shard_names(1)]
    shards = tuple(Shard(tar, 10, SHA, lines, 5, SHA, 2, 3, 4, 1.5) for tar, lines in names)
    return Index(SETTINGS, "d" * 16, shards, 1)


def source(**changed) -> SourceLine:
    said = tuple(Caption(f"wörd {n}", float(n), n + 1.5) for n in range(20))
    rows = [
        RowLine(7, 1.0, 70.5, "a|b", "train", {"mood": "sad"}),
        RowLine(9),
        RowLine(11, None, 3.0, captions=(Caption("of its own"),)),
    ]
    pieces = [PieceLine(f"00000003-{n:04d}.mov", 512 + 1024 * n, 1000, SHA, 60.0 * n, 63.3) for n in range(2)]
    pieces.append(PieceLine("00000003-0002.mov", 5120, 900, SHA, 200.0, 10.0))
    made = SourceLine("films/ä.mp4", 3, "video", 12345, SHA, 205.0, 204.5, rows, said, pieces)
    return replace(made, **changed)


def test_an_index_comes_back_and_its_names_sort():
    text = index().text()
    assert read_index(text, "index.json") == index()
    assert (index().clips, index().pieces, index().sources, index().bytes) == (12, 9, 6, 45)
    names = [shard.file for shard in index().shards]
    assert names == sorted(names) == ["shard-000000.tar", "shard-000000_1.tar", "shard-000001.tar"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format="zip"), "format: is not an index of shards"),
        (lambda c: c.update(version=2), "version: 2, but this program reads 1"),
        (lambda c: c["settings"].pop("fps"), "settings.fps: is missing"),
        (lambda c: c["settings"].update(fps="10"), "settings.fps: '10' is not a valid float"),
        (lambda c: c["settings"].update(size=-1), "settings.size: -1 is not a valid int"),
        (lambda c: c["shards"][1].update(colour=1), r"shards\[1\].colour: is not known"),
        (lambda c: c["shards"][1].update(file="../x.tar"), r"shards\[1\].file: '../x.tar' is not the name of a file"),
        (lambda c: c["shards"][1].update(sha256="F" * 64), r"shards\[1\].sha256: is not a SHA-256"),
        (lambda c: c["shards"].pop(), "totals.sources: 6, but the shards sum up to 4"),
        (lambda c: c["shards"][1].update(file="shard-000000.tar"), "a file is named twice"),
        (lambda c: c.update(faults=None), "faults: must be of type int"),
        (lambda c: c.update(shards=3), "shards: must be a list"),
    ],
)
def test_a_wrong_index_is_named_by_file_and_field(change, words):
    content = json.loads(index().text())
    change(content)
    with pytest.raises(ShardError, match=f"^s3://b/index.json: {words}|s3://b/index.json: .*{words}"):
        read_index(json.dumps(content), "s3://b/index.json")


def test_a_text_that_is_no_json():
    with pytest.raises(ShardError, match=r"^index.json: is not JSON"):
        read_index(index().text()[:-20], "index.json")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is nested deeper than 64 levels"),
        (b'{"source": "a", "source": "b"}', "source: stands there twice"),
        (b'{"number": ' + b"9" * 5000 + b"}", "number: a number of 5000 digits"),
        (b"[]", "expected an object"),
    ],
)
def test_a_line_that_nobody_packed(line, words):
    with pytest.raises(ShardError, match=rf"^shard-000000\.jsonl, line 1: {words}"):
        next(read_sources([line], "shard-000000.jsonl"))


def test_a_source_comes_back_with_its_captions():
    (back,) = read_sources([source().text()], "shard-000000.jsonl")
    assert back.captions == source().captions  # stored compressed: there are many
    assert back == replace(source(), captions=back.captions)
    assert back.captions_of(back.rows[0]) == source().captions
    assert back.captions_of(back.rows[2]) == (Caption("of its own"),)
    few = source(captions=(Caption("one", 0.0, 1.0), Caption("two")))
    assert next(read_sources([few.text().encode()], "x")) == few
    odd = source(source="films/\udcff.mp4", captions=())  # a name that is not UTF-8
    assert next(read_sources([odd.text().encode()], "x")) == odd


@pytest.mark.parametrize(
    ("start", "seconds", "name"),
    [
        (0.0, 3.2, "00000003-0000.mov"),
        (59.9, 3.2, "00000003-0000.mov"),
        (60.0, 3.2, "00000003-0001.mov"),
        (119.9, 3.2, "00000003-0001.mov"),
        (120.1, 3.2, "00000003-0001.mov"),
        (120.2, 3.2, None),  # reaches into the gap
        (150.0, 3.2, None),
        (199.9, 3.2, None),
        (203.0, 3.2, "00000003-0002.mov"),  # past the end of the source
        (210.0, 3.2, "00000003-0002.mov"),
    ],
)
def test_the_piece_of_a_window(start, seconds, name):
    found = source().piece(start, seconds)
    assert (found and found.name) == name


def changed(text: str, *path, value) -> str:
    content = json.loads(text)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("source",), "", "source: '' is not valid"),
        (("number",), -1, "number: -1 is not valid"),
        (("kind",), "film", "kind: 'film' is not valid"),
        (("bytes",), "12", "bytes: '12' is not valid"),
        (("sha256",), "12", "sha256: '12' is not valid"),
        (("duration",), float("nan"), "duration: NaN is no number"),
        (("sound",), "no", "sound: 'no' is not valid"),
        (("rows", 1), 5, "rows[1]: "),
        (("rows", 1), {}, "rows[1]: missing 1 required positional argument: 'number'"),
        (("rows", 1, "colour"), 5, "rows[1]: got an unexpected keyword argument 'colour'"),
        (("rows", 0, "start"), "soon", "rows[0].start: 'soon' is not valid"),
        (("rows", 0, "extra"), [], "rows[0].extra: [] is not valid"),
        (("rows", 2, "captions"), {"text": ["a"], "start": [], "end": []}, "rows[2].captions: cannot be read"),
        (("captions", 1), "?", "captions: cannot be read"),
        (("pieces",), [], "pieces: [] is not valid"),
        (("pieces", 1), ["a"], "is not a source: "),
        (("pieces", 1, 0), "../up.mov", "pieces[1].name: '../up.mov' is not valid"),
        (("pieces", 1, 0), "/etc/up.mov", "pieces[1].name: '/etc/up.mov' is not valid"),
        (("pieces", 1, 1), 513, "pieces[1].offset: 513 is not valid"),
        (("pieces", 1, 2), 0, "pieces[1].size: 0 is not valid"),
        (("pieces", 1, 3), None, "pieces[1].sha256: None is not valid"),
        (("pieces", 1, 4), 0.0, "pieces[1].begins: 0.0 is not valid"),  # not after the piece before it
        (("pieces", 1, 5), -1, "pieces[1].seconds: -1 is not valid"),
    ],
)
def test_a_wrong_line_is_named_by_file_line_and_field(path, value, words):
    text = source().text()
    with pytest.raises(ShardError) as caught:
        list(read_sources([text, changed(text, *path, value=value)], "shard-000000.jsonl"))
    assert str(caught.value).startswith(f"shard-000000.jsonl, line 2: {words}")


@pytest.mark.parametrize("line", ["", "[1]", "{}", '{"source"', "null"])
def test_a_line_that_is_no_source(line):
    with pytest.raises(ShardError, match=r"^x.jsonl, line 1: "):
        list(read_sources([line], "x.jsonl"))
