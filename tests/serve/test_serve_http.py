"""The server as a client sees it: searches, filters, the map; what makes no sense, and why."""

from __future__ import annotations

import json
import os
import threading
import urllib.request

import numpy as np
import pytest

from tests.limits import HANG
from tests.serve.conftest import CAPTION, told
from vatt.serve.views import Kept


def test_the_collection_is_described(client, served):
    about = told(client.get("/api/collection"))
    assert (about["files"], about["name"], about["kinds"]["audio"]) == (5, "holiday films", 1)
    assert about["windows"] == len(served.index)
    assert about["folders"] == [["holiday", "holiday", 3], ["holiday/2024", "holiday/2024", 3]]


def test_words_find_files_once_with_their_moments(client, served):
    found = told(client.get("/api/search", params={"text": "a red circle moves"}))["results"]
    items = [one["item"] for one in found]
    assert len(items) == len(set(items))
    assert {served.film, served.hostile} <= set(items)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    film = found[items.index(served.film)]
    row, start, end, score = film["moments"][0]
    assert (row, start, end) == (film["row"], film["start"], film["end"])
    assert -1 <= score <= 1
    assert film["caption"] == CAPTION
    direct = served.index.search(served.index.encoder.words("a red circle moves"), top=1)[0]
    assert found[0]["row"] == direct.window.row  # as `vatt search` ranks


@pytest.mark.parametrize(
    ("filters", "items"),
    [
        ({"folder": "holiday"}, ["hostile", "turned"]),
        ({"folder": "holi"}, []),
        ({"shortest": "5"}, ["film"]),
        ({"longest": "5", "kind": "video"}, ["hostile", "turned"]),
        ({"kind": "image"}, ["picture"]),
        ({"folder": "../../etc"}, []),
    ],
)
def test_filters_narrow_what_is_found(client, served, filters, items):
    expected = {getattr(served, name) for name in items}
    found = told(client.get("/api/search", params={"text": "a red circle", **filters}))["results"]
    assert {one["item"] for one in found} == expected
    browsed = told(client.get("/api/browse", params=filters))
    assert expected <= {one["item"] for one in browsed["results"]}
    assert browsed["total"] == len(browsed["results"])


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 400, "say what"),
        ({"text": "x" * 1001}, 400, "at most 1000"),
        ({"text": "zzz qqq"}, 400, "no word that the model knows"),
        ({"text": "red", "top": "0"}, 400, "top"),
        ({"text": "red", "top": "1e3"}, 400, "top"),
        ({"text": "red", "kind": "pdf"}, 400, "kind"),
        ({"text": "red", "shortest": "nan"}, 400, "shortest"),
        ({"text": "red", "weight": "7", "like": "0"}, 400, "weight"),
        ({"like": "999999"}, 404, "no such moment"),
        ({"like": "-1"}, 400, "like"),
        ({"like": "\u0663"}, 400, "like"),
        ({"upload": "nosuch"}, 410, "send it again"),
    ],
)
def test_a_query_that_makes_no_sense_is_told_why(client, query, status, words):
    assert words in told(client.get("/api/search", params=query), status)["error"]


def test_it_is_told_whether_there_are_more(client):
    """By moments, of which a file may have several."""
    few = told(client.get("/api/search", params={"text": "a red circle", "top": 2}))
    assert few["more"] is True
    assert told(client.get("/api/search", params={"text": "a red circle", "top": 200}))["more"] is False


def test_more_like_this_finds_the_moment_itself_first(client, served):
    row = int(np.flatnonzero(served.index.rows.file == served.turned)[0])
    found = told(client.get("/api/search", params={"like": row}))["results"]
    assert found[0]["item"] == served.turned
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    both = told(client.get("/api/search", params={"like": row, "text": "a red circle", "weight": 0.3}))["results"]
    assert set(both[0]["cosines"]) == {"text", "like"}


def test_the_map_has_a_place_for_each_moment_and_is_made_once(client, served):
    found = told(client.get("/api/map"))
    rows = np.flatnonzero(served.index.has(next(name for name in served.index.spaces if name.startswith("video"))))
    assert {point["row"] for point in found["points"]} == set(rows.tolist())
    assert found["of"] == len(rows)
    assert all(0 <= point[side] <= 1 for point in found["points"] for side in "xy")
    assert client.get("/api/map").content == client.get("/api/map").content
    sound = told(client.get("/api/map", params={"by": "sound"}))
    assert served.sound in {point["item"] for point in sound["points"]}


def test_what_was_used_last_is_kept():
    kept = Kept[str, int](3)
    for key, size in (("a", 1), ("b", 1), ("c", 1)):
        kept.keep(key, ord(key), size)
    assert kept.get("a") == 97
    kept.keep("d", 100, 1)  # "b" was used least recently
    assert [kept.get(key) for key in "abcd"] == [97, None, 99, 100]
    kept.keep("e", 101, 9)  # larger than all there may be
    assert [kept.get(key) for key in "acde"] == [None] * 4


def test_many_searches_at_once(address, served):
    """Each is answered as if it came alone. The browser's test asks 500 at once, and so does VATT_QUERIES=500 here."""
    count = int(os.environ.get("VATT_QUERIES", "60"))
    sentences = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "square", "star")]
    answers: list[tuple[str, int]] = []

    def ask(number):
        text = sentences[number % 6]
        with urllib.request.urlopen(f"{address}/api/search?top=1&text={text.replace(' ', '+')}", timeout=HANG) as found:
            answers.append((text, json.load(found)["results"][0]["row"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert len(answers) == count
    encoder = served.index.encoder
    assert set(answers) == {(s, served.index.search(encoder.words(s), top=1)[0].window.row) for s in sentences}
