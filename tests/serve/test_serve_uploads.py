"""Uploads: what is searched by, what is refused, and that nothing is kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.data.media import write
from tests.serve.conftest import RATE, told, tone
from vatt.serve.parameters import read_body


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
