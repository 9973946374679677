"""Files of the index, as they are sent: ranges, pictures, sounds; and only with the content that was indexed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.limits import HANG
from tests.serve.conftest import told
from vatt.search import Index, IndexJob, SearchError, build_index
from vatt.serve import guard, originals, views
from vatt.serve.app import build_app

testclient = pytest.importorskip("starlette.testclient")


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


@pytest.fixture
def film(served, tmp_path, monkeypatch):
    """``film(path)`` is the answer to a request of the film of the index, which is now at ``path``; and its content."""
    local = testclient.TestClient(build_app(served.index, "x"), "http://127.0.0.1:8350")
    files, original = list(served.index.files), served.index.files[served.film]
    monkeypatch.setattr(served.index, "files", files)

    def ask(path):
        files[served.film] = replace(original, path=path, name=path.name)
        return local.get(f"/media/{served.film}")

    return ask, original.path.read_bytes()


def test_a_copy_with_another_time_and_a_link_to_it_are_sent(film, tmp_path):
    ask, content = film
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(content)
    (tmp_path / "link.mp4").symlink_to(copy)
    before = len(os.listdir("/proc/self/fd"))
    for path in (copy, tmp_path / "link.mp4"):
        assert ask(path).content == content
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_swapped_in_or_changed_since_is_not_sent(film, served, tmp_path):
    ask, content = film
    secret, changed, longer = (tmp_path / name for name in ("secret", "changed.mp4", "longer.mp4"))
    secret.write_bytes(b"s" * len(content))  # as somebody makes it who knows what is compared
    time = served.index.files[served.film].mtime
    os.utime(secret, ns=(time, time))
    (tmp_path / "swapped.mp4").symlink_to(secret)
    (tmp_path / "folder").symlink_to(tmp_path)
    changed.write_bytes(content[:-1] + b"x")
    longer.write_bytes(content + b"x")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "swapped.mp4", tmp_path / "folder" / "swapped.mp4", changed, longer):
        answer = ask(path)
        assert answer.status_code == 409
        assert answer.json()["error"] == "this file has changed since it was indexed; run vatt index again"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_changed_index_is_taken_up_and_pages_that_are_open_keep_theirs(served, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "_LOOK", 0.0)
    monkeypatch.setattr(views, "_PATIENCE", 60.0)
    media = shutil.copytree(served.folder, tmp_path / "media")
    folder = shutil.copytree(served.index.path, tmp_path / "index")
    model = served.index.model

    def update():
        build_index(IndexJob(media, model, folder, workers=0, pictures=True, moved=True))

    update()
    index = Index.open(folder)
    index.__dict__["encoder"] = served.index.encoder.of_index(index._like)  # so that no model is read
    local = testclient.TestClient(build_app(index, "x"), "http://127.0.0.1:8350")
    was = told(local.get("/api/browse"))
    assert was["total"] == 5
    film = next(one for one in was["results"] if one["name"] == "film.mp4")
    for name in ("holiday/2024/hum.wav", "still.png"):
        (media / name).unlink()
    update()
    now = told(local.get("/api/browse"))
    assert (now["total"], told(local.get("/api/collection"))["v"]) == (3, now["v"])
    assert now["v"] != was["v"]
    found = told(local.get("/api/search", params={"text": "a red circle"}))
    assert found["v"] == now["v"]
    for number, answer in enumerate(
        [local.get(f"/media/{one['item']}", params={"v": one["v"]}) for one in was["results"]]
    ):
        gone = was["results"][number]["name"] in ("hum.wav", "still.png")
        assert answer.status_code == (404 if gone else 200)
    alike = told(local.get("/api/search", params={"like": film["row"], "v": was["v"]}))["results"]
    assert alike[0]["name"] == "film.mp4"
    assert told(local.get("/api/search", params={"like": 0, "v": "other"}), 410)["error"].startswith("the index has")


@pytest.mark.parametrize("path", ["/media/{film}", "/poster/0", "/shape/0"])
def test_only_addresses_of_a_state_are_kept_by_browsers(client, served, path):
    """Without ``v`` the same address means another file after the index has changed."""
    path, version = path.format(film=served.film), told(client.get("/api/collection"))["v"]
    assert "immutable" in client.get(path, params={"v": version}).headers["cache-control"]
    assert client.get(path).headers["cache-control"] == "no-cache"


def test_a_slow_file_does_not_hold_up_others_and_digests_are_bounded(served, tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "_DIGESTS", 2)
    files, reads, go = [], [], threading.Event()
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(bytes([number]))
        sha256 = hashlib.sha256(bytes([number])).hexdigest()
        files.append(
            replace(served.index.files[served.film], path=path, name=path.name, size=1, mtime=0, sha256=sha256)
        )
    right = originals._sha256

    def read(number):
        reads.append(os.pread(number, 1, 0)[0])
        if reads[-1] == 0:
            assert go.wait(HANG)
        return right(number)

    monkeypatch.setattr(originals, "_sha256", read)
    opened = originals.Originals()

    def ask(number):
        with opened.opened(files[number]):
            pass

    slow = [threading.Thread(target=ask, args=(0,), daemon=True) for _ in range(2)]
    for thread in slow:
        thread.start()
    ask(1)  # while the first is read
    ask(1)
    go.set()
    for thread in slow:
        thread.join(HANG)
    assert sorted(reads) == [0, 1]
    ask(2)
    ask(3)
    assert len(opened._digests) == 2
    ask(1)  # is forgotten, and read again
    assert reads[-3:] == [2, 3, 1]


def test_the_copy_of_a_changed_index_is_opened_once_it_is_there(served, tmp_path, monkeypatch, caplog):
    """With a stand-in for the copy, since lancedb is large."""

    class Copy:
        uri, there = "s3://films/copy", False

        @classmethod
        def open(cls, uri, index):
            if not cls.there:
                raise SearchError(f"--store {uri}: is no copy of it as it is now")
            return cls()

    monkeypatch.setattr(views, "LanceCopy", Copy)
    index, changed = Index.open(served.index.path), [Index.open(served.index.path)]
    index.copy = Copy()
    monkeypatch.setattr(Index, "again", lambda self: changed.pop() if changed else None)
    states = views.Views(index)
    for _ in range(2):
        states._look()
        assert states.now.index is not index
        assert states.now.index.copy is None
    assert [one.getMessage() for one in caplog.records] == [
        "--store s3://films/copy: is no copy of it as it is now; until then every window is looked at"
    ]
    Copy.there = True
    states._look()
    assert isinstance(states.now.index.copy, Copy)
