"""The server as a client sees it: searches, uploads, ranges of files; what is refused, and why."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.data.media import write
from tests.limits import HANG
from tests.serve.conftest import CAPTION, HOSTILE, RATE, tone
from vatt.serve import guard
from vatt.serve.app import Kept, Settings, build_app
from vatt.serve.parameters import read_body

httpx = pytest.importorskip("httpx2")
testclient = pytest.importorskip("starlette.testclient")


@pytest.fixture(scope="module")
def client(address):
    """Of the real server, so that what uvicorn does is tested, too."""
    with httpx.Client(base_url=address, timeout=HANG) as found:
        yield found


def told(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_page_and_its_parts_come_with_a_policy(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == guard.PAGE_POLICY
    assert "unsafe" not in guard.PAGE_POLICY
    assert "http" not in page.text.replace("http-equiv", "")  # nothing is loaded from elsewhere
    for name in ("page.js", "style.css", "icon.svg", "parts.js", "cards.js", "player.js", "map.js"):
        part = client.get(f"/static/{name}")
        assert part.status_code == 200
        assert part.headers["x-content-type-options"] == "nosniff"
        assert "//cdn" not in part.text
    for name in ("nosuch.js", "..%2f__init__.py", "%2e%2e/app.py", "app.py"):
        assert client.get(f"/static/{name}").status_code == 404


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


def media_bytes(tmp_path: Path, name: str, **what) -> bytes:
    return write(tmp_path / name, **what).read_bytes()


def test_uploads_of_each_kind_find_their_like_and_are_not_kept(client, served, tmp_path):
    film = (served.folder / "film.mp4").read_bytes()
    before = sorted(served.folder.rglob("*"))
    answer = told(client.post("/api/upload", params={"name": "C:\\films\\film.mp4"}, content=film))
    assert answer["picture"].startswith("data:image/jpeg;base64,")
    found = told(client.get("/api/search", params={"upload": answer["token"]}))["results"]
    assert found[0]["item"] == served.film
    heard = told(client.post("/api/upload", params={"name": "x.mp4", "by": "audio"}, content=film))
    assert len(heard["peaks"]) == 96
    assert max(heard["peaks"]) == 100
    hum = (served.folder / "holiday" / "2024" / "hum.wav").read_bytes()
    token = told(client.post("/api/upload", params={"name": "hum.wav"}, content=hum))["token"]
    assert told(client.get("/api/search", params={"upload": token}))["results"][0]["item"] == served.sound
    still = (served.folder / "still.png").read_bytes()
    token = told(client.post("/api/upload", params={"name": "still.png"}, content=still))["token"]
    assert told(client.get("/api/search", params={"upload": token}))["results"][0]["item"] == served.picture
    at = told(client.post("/api/upload", params={"name": "film.mp4", "at": "2.5"}, content=film))
    assert told(client.get("/api/search", params={"upload": at["token"]}))["results"][0]["item"] == served.film
    assert sorted(served.folder.rglob("*")) == before
    assert not [name for name in os.listdir("/proc/self/fd") if "upload" in os.path.realpath(f"/proc/self/fd/{name}")]


@pytest.mark.parametrize(
    ("name", "content", "query", "status", "words"),
    [
        ("page.html", b"<html>", {}, 415, "known here"),
        ("noending", b"abc", {}, 415, "known here"),
        ("film.mp4", b"", {}, 400, "empty"),
        ("film.mp4", b"\0" * 2000, {}, 422, "cannot be decoded"),
        ("film.mp4", b"#EXTM3U\nfile:///etc/passwd\n", {}, 422, "text"),
        ("x.mp4", b"concat:/etc/passwd", {}, 422, "cannot be decoded"),
        ("still.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, {}, 422, "image"),
        ("a.wav", b"RIFF", {"by": "video"}, 400, "by"),
        ("a.mp4", b"abc", {"by": "nose"}, 400, "by"),
        ("a.mp4", b"abc", {"at": "-3"}, 400, "at"),
        ("large.mp4", b"x" * ((1 << 20) + 1), {}, 413, "larger than 1 MiB"),
    ],
)
def test_an_upload_that_cannot_be_used_is_told_why(client, name, content, query, status, words):
    answer = told(client.post("/api/upload", params={"name": name, **query}, content=content), status)
    assert words in answer["error"]
    assert "/proc" not in answer["error"]


def test_an_upload_without_a_length_is_cut_off_at_the_limit():
    """The body is asked for in parts, and not to its end: a client of the tests would send all of it at once."""
    given = 0

    async def receive():
        nonlocal given
        given += 1
        assert given < 50
        return {"type": "http.request", "body": b"x" * (1 << 18), "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/api/upload", "query_string": b"", "headers": []}
    with pytest.raises(HTTPException) as refused:
        asyncio.run(read_body(Request(scope, receive), 1 << 20))
    assert (refused.value.status_code, given) == (413, 5)


def test_a_silent_sound_is_told(client, tmp_path):
    content = media_bytes(tmp_path, "s.wav", frames=None, sound=np.zeros(3 * RATE), rate=RATE, audio_codec="pcm_s16le")
    assert "silent" in told(client.post("/api/upload", params={"name": "s.wav"}, content=content), 400)["error"]


def test_a_sound_that_exceeds_full_scale_is_searched(client, served, tmp_path):
    loud = 3 * tone(3.0, 300)
    content = media_bytes(tmp_path, "s.wav", frames=None, sound=loud, rate=RATE, audio_codec="pcm_f32le")
    assert told(client.post("/api/upload", params={"name": "s.wav"}, content=content))["token"]


def test_ranges_of_a_file_are_what_seeking_needs(client, served):
    whole = (served.folder / "film.mp4").read_bytes()
    at = f"/media/{served.film}"
    answer = client.get(at)
    assert answer.content == whole
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-security-policy"] == guard.FILE_POLICY
    for given, start, end in (("0-", 0, None), ("100-299", 100, 300), ("-50", len(whole) - 50, None), ("0-0", 0, 1)):
        part = client.get(at, headers={"range": f"bytes={given}"})
        assert part.status_code == 206
        assert part.content == whole[start:end]
        last = (len(whole) if end is None else end) - 1
        assert part.headers["content-range"] == f"bytes {start}-{last}/{len(whole)}"
    beyond = client.get(at, headers={"range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    assert client.get(at, headers={"range": "bytes=9-3"}).status_code in (400, 416)
    assert client.get(at, headers={"range": "bytes=" + ",".join(["0-1"] * 5000)}).status_code in (200, 206)
    other = {"range": "bytes=5-9", "if-range": '"another file"'}
    assert client.get(at, headers=other).content == whole
    kept = {"range": "bytes=5-9", "if-range": answer.headers["etag"]}
    assert client.get(at, headers=kept).content == whole[5:10]


def test_posters_and_shapes_are_pictures_of_the_moment(client, served):
    import av

    def colour(row):
        answer = client.get(f"/poster/{row}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        with av.open(io.BytesIO(answer.content)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        return picture[picture.shape[0] // 2].reshape(-1, 3)

    rows = served.index.rows.file
    film = colour(int(np.flatnonzero(rows == served.film)[1]))
    assert ((film[:, 0] > 180) & (film[:, 1] < 90)).any()  # the red square
    hostile = colour(int(np.flatnonzero(rows == served.hostile)[0]))
    assert ((hostile[:, 2] > 180) & (hostile[:, 0] < 90)).any()  # the blue one
    assert colour(int(np.flatnonzero(rows == served.picture)[0])).shape[1] == 3
    sound = int(np.flatnonzero(rows == served.sound)[0])
    assert client.get(f"/poster/{sound}").status_code == 404
    peaks = told(client.get(f"/shape/{sound}"))["peaks"]
    assert max(peaks) == 100
    assert min(peaks) < 60  # it is not as loud all the time


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/media/99",
            "/media/-1",
            "/media/1e3",
            "/media/film.mp4",
            "/media/..%2f..%2fetc%2fpasswd",
            "/media//etc/passwd",
        ),
        *("/media/%00", "/media/" + "9" * 400, "/poster/99999", "/shape/" + "9" * 40, "/api/moments/77", "/etc/passwd"),
        *(
            "/media/0/../../etc/passwd",
            "/docs",
            "/openapi.json",
            "/api/map?by=../x",
            "/static/",
            "/api/moment/12345678",
        ),
    ],
)
def test_no_path_leads_out_of_the_index(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.content


def test_other_methods_are_refused(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert client.request(method, "/media/0").status_code == 405
    assert client.get("/api/upload").status_code == 405


def test_names_are_numbers_outside_and_harmless_inside(client, served):
    item = told(client.get(f"/api/moments/{served.turned}"))
    assert "\u202e" not in item["name"]
    assert "\x1b" not in item["name"]
    hostile = told(client.get(f"/api/moments/{served.hostile}"))
    assert hostile["name"] == HOSTILE  # text, which the page shows as text
    assert hostile["folder"] == "holiday/2024"
    assert len(hostile["moments"]) >= 1


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"host": "localhost:8350"}, True),
        ({"host": "[::1]:8350"}, True),
        ({"host": "films.example"}, True),  # --allow-host
        ({"host": "evil.example:8350"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "192.168.0.9:8350"}, False),
        ({"host": "localhost:8350@evil.example"}, False),
        ({"host": ""}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "http://127.0.0.1:8350"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),
    ],
)
def test_only_this_page_may_ask(served, headers, passes):
    local = testclient.TestClient(
        build_app(served.index, "x", Settings(names=("films.example",))), "http://127.0.0.1:8350"
    )
    for path in ("/api/collection", f"/media/{served.film}"):
        answer = local.get(path, headers=headers)
        assert answer.status_code == (200 if passes else 403)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_link_elsewhere_may_open_the_page_and_an_open_server_has_its_addresses(served):
    local = testclient.TestClient(build_app(served.index, "x"), "http://127.0.0.1:8350")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert local.get("/", headers=link).status_code == 200
    assert local.get("/", headers=link | {"sec-fetch-mode": "cors"}).status_code == 403
    wide = testclient.TestClient(build_app(served.index, "x", Settings("0.0.0.0")), "http://192.168.0.9:8350")
    assert wide.get("/").status_code == 200
    assert wide.get("/", headers={"host": "evil.example:8350"}).status_code == 403


def test_an_index_does_not_give_away_what_is_no_media(served, tmp_path, monkeypatch):
    """An index that somebody else made may name any file of this machine."""
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    link = tmp_path / "pipe.mp4"
    os.mkfifo(link)
    local = testclient.TestClient(build_app(served.index, "x"), "http://127.0.0.1:8350")
    at, files = f"/media/{served.film}", list(served.index.files)
    monkeypatch.setattr(served.index, "files", files)
    for path in (secret, link, tmp_path / "gone.mp4", tmp_path, None):
        files[served.film] = replace(files[served.film], path=path)
        answer = local.get(at)
        assert answer.status_code == 404
        assert "secret" not in answer.text
    (tmp_path / "key.mp4").symlink_to(secret)  # of a folder that somebody else packed: it could not be read as media
    files[served.film] = replace(files[served.film], path=tmp_path / "key.mp4", windows=0)
    assert local.get(at).status_code == 404


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
    import urllib.request

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
