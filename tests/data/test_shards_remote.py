"""Pieces over HTTP, also from a server that misbehaves: errors with shard and member, retries with a limit, no hang."""

from __future__ import annotations

import errno
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from tests.data.shard_files import Made, Server, write_shards
from tests.limits import HANG
from vatt.data import ManifestError, MediaError, read_clips
from vatt.data.shards import fetch as fetching
from vatt.data.shards import storage
from vatt.data.shards.lines import RowLine

SHARD = "shard-000000.tar"


def content(number: int, size: int = 50_000) -> bytes:
    return np.random.default_rng(number).bytes(size)


@pytest.fixture
def shards(tmp_path):
    """Two shards of three sources with a piece each."""
    made = [Made(f"film{n}.mp4", [(0.0, 10.0, content(n))], [RowLine(n)]) for n in range(6)]
    write_shards(tmp_path / "shards", [made[:3], made[3:]])
    return tmp_path / "shards"


@pytest.fixture
def server(shards, monkeypatch):
    monkeypatch.setattr(storage, "READ", 0.5)
    monkeypatch.setattr(fetching, "_FIRST_WAIT", 0.01)
    server = Server(shards)
    yield server
    server.close()


@pytest.fixture
def clips(server, tmp_path):
    return read_clips(server.url, cache=tmp_path / "cache", timeout=5.0).clips


def read(clip, start=0.0):
    with clip.packed.piece(start, 3.2).open() as file:
        return file.read()


def wait_for(something):
    deadline = time.monotonic() + HANG
    while not something() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_just_the_bytes_of_a_piece_are_asked_for_once(server, clips):
    assert [clip.video.name for clip in clips] == [f"film{n}.mp4" for n in range(6)]
    assert server.asked(".tar") == []  # the index costs no byte of a shard
    assert [read(clip) for clip in clips] == [content(n) for n in range(6)]
    assert [read(clip) for clip in clips] == [content(n) for n in range(6)]  # from the cache
    assert len(server.asked(".tar")) == 6
    assert server.sent[SHARD] == server.sent["shard-000001.tar"] == 150_000
    again = read_clips(server.url, cache=clips._set._fetcher.cache.folder).clips
    assert read(again[5]) == content(5)
    assert len(server.asked(".tar")) == 6
    assert len(server.asked(".jsonl")) == 2  # kept, too


def test_a_cache_on_a_file_system_without_locks(server, tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    clips = read_clips(server.url, cache=tmp_path / "cache", timeout=5.0).clips
    assert read(clips[0]) == read(clips[0]) == content(0)
    assert len(list((tmp_path / "cache").glob("??/*"))) == 1


def test_without_a_cache_each_open_is_a_request(server, tmp_path):
    clips = read_clips(server.url, cache=tmp_path / "cache", cache_gb=0).clips
    assert read(clips[0]) == read(clips[0]) == content(0)
    assert len(server.asked(".tar")) == 2
    assert not list((tmp_path / "cache").glob("??"))


@pytest.mark.parametrize("how", [503, 500, 429, "close", "stall", "wrong", "elsewhere"])
def test_what_may_pass_is_asked_for_again(server, clips, how):
    server.behaviours[SHARD] = [how, how]
    assert read(clips[1]) == content(1)
    assert len(server.asked(".tar")) == 3


@pytest.mark.parametrize(
    ("how", "reason", "requests"),
    [
        ("always 404", "the server answers 404", 1),
        ("always 403", "the server answers 403", 1),
        ("always 416", "the server answers 416", 1),
        ("always whole", "the server ignores Range", 1),
        ("always 503", "the server answers 503 (asked 5 times)", 5),
        ("always close", "the connection closed after 25000 bytes (asked 5 times)", 5),
        ("always wrong", "the bytes have another SHA-256 than the index says (asked 5 times)", 5),
        ("always elsewhere", "the server sends bytes", 5),
        ("always stall", "no answer within 0.5 s after 25000 bytes (asked 5 times)", 5),
    ],
)
def test_what_does_not_pass_names_shard_and_member(server, clips, how, reason, requests):
    server.behaviours[SHARD] = [how]
    began = time.monotonic()
    with pytest.raises(MediaError) as caught:
        read(clips[1])
    assert caught.value.file == f"{server.url}/{SHARD}: 00000001-0000.mov"
    assert caught.value.field == "shard"
    assert reason in caught.value.reason
    assert len(server.asked(".tar")) == requests
    assert time.monotonic() - began < 60
    if how == "always whole":  # and the body was not read
        assert server.sent[SHARD] < 150_000 + 2 * 2**20
    assert read(clips[4]) == content(4)  # other shards are as good as before


def test_a_server_that_drips_meets_the_limit(server, tmp_path):
    clips = read_clips(server.url, cache=tmp_path / "cache", timeout=1.0).clips
    server.behaviours[SHARD] = ["always drip"]
    with pytest.raises(MediaError, match=r"too slow: [0-9]+ bytes"):
        read(clips[1])


def test_a_server_that_is_gone(server, clips):
    server.close()
    clips._set._fetcher.storage._pool = None
    with pytest.raises(MediaError, match=r"00000001-0000.mov: shard: the connection failed: .*\(asked 5 times\)"):
        read(clips[1])
    with pytest.raises(ManifestError, match=r"/shards: index.json: the connection failed"):
        read_clips(server.url)


def test_a_missing_index_is_an_error_at_the_start(server, shards):
    (shards / "index.json").unlink()
    with pytest.raises(ManifestError, match=r"^http://127.0.0.1:[0-9]+/shards: index.json: the server answers 404$"):
        read_clips(server.url)


def test_lines_that_differ_from_the_index(server, shards, tmp_path):
    (shards / "shard-000001.jsonl").write_text("{}\n")
    with pytest.raises(ManifestError, match=r"shard-000001.jsonl: the bytes have another SHA-256 than the index says"):
        read_clips(server.url, cache=tmp_path / "cache")


def test_what_is_expected_is_fetched_once_for_all_processes(server, clips):
    pieces = [clip.packed.piece(0.0, 3.2) for clip in clips]
    for piece in pieces:
        piece.expect()
        piece.expect()
    assert [piece.open().read() for piece in pieces] == [content(n) for n in range(6)]  # some are on their way
    server.behaviours[SHARD] = server.behaviours["shard-000001.tar"] = ["always 404"]
    with ProcessPoolExecutor(2, get_context("fork")) as others:
        assert list(others.map(read, clips, timeout=HANG)) == [content(n) for n in range(6)]
    assert len(server.asked(".tar")) == 6


def test_a_damaged_entry_is_fetched_again(server, clips, caplog):
    read(clips[1])
    (path,) = clips._set._fetcher.cache.folder.glob("??/[0-9a-f]*")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    for _ in range(2):
        assert read(clips[1]) == content(1)
    assert len(server.asked(".tar")) == 3  # once for the file that was open, once for the entry
    assert caplog.text.count("its content has changed: this piece of a shard is fetched again") == 1
    read(clips[1])
    assert len(server.asked(".tar")) == 3


def test_a_piece_on_its_way_is_waited_for(server, clips):
    server.behaviours[SHARD] = ["slow"]
    clips[0].packed.piece(0.0, 3.2).expect()
    wait_for(lambda: server.asked(".tar"))
    with ProcessPoolExecutor(1, get_context("fork")) as other:
        assert other.submit(read, clips[0]).result(HANG) == content(0)
    assert len(server.asked(".tar")) == 1


def test_what_is_expected_and_fails_is_told_where_it_is_opened(server, clips):
    server.behaviours[SHARD] = [404, 404]
    piece = clips[0].packed.piece(0.0, 3.2)
    piece.expect()
    wait_for(lambda: server.asked(".tar"))
    with pytest.raises(MediaError, match="404"):
        piece.open()
    assert piece.open().read() == content(0)  # nothing of the fault is kept


def test_more_is_expected_than_is_kept(server, clips, monkeypatch):
    monkeypatch.setattr(fetching, "_AHEAD", 2)
    for clip in clips:
        clip.packed.piece(0.0, 3.2).expect()
    assert [read(clip) for clip in clips] == [content(n) for n in range(6)]


def test_a_full_cache_makes_room_and_keeps_the_lines(server, tmp_path, caplog):
    clips = read_clips(server.url, cache=tmp_path / "cache", cache_gb=130_000e-9).clips  # of two pieces of six
    for _ in range(2):
        assert [read(clip) for clip in clips] == [content(n) for n in range(6)]
    kept = {path.name for path in (tmp_path / "cache").glob("??/*")}
    assert clips[5].packed.line.pieces[0].sha256 in kept
    assert len(kept) <= 2
    assert len(list((tmp_path / "cache" / "lines").glob("*/*.jsonl"))) == 2
    assert not caplog.records  # a fault would end reading ahead


def test_without_a_cache_nothing_is_fetched_ahead(server, tmp_path):
    clips = read_clips(server.url, cache=tmp_path / "cache", cache_gb=0).clips
    clips[0].packed.piece(0.0, 3.2).expect()
    assert read(clips[0]) == content(0)
    assert len(server.asked(".tar")) == 1


def test_clips_go_to_other_processes(server, clips):
    read(clips[0])  # connections are open
    assert read(pickle.loads(pickle.dumps(clips))[1]) == content(1)
    assert read(pickle.loads(pickle.dumps(clips[2]))) == content(2)


def test_the_query_of_a_url_stays_behind_the_files(shards):
    address = storage.open_storage("https://host/a%20b/shards/?sig=1%2F2").address("shard-000000.tar")
    assert address == "https://host/a%20b/shards/shard-000000.tar?sig=1%2F2"


def test_other_stores_are_read_through_fsspec(shards, tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    clips = read_clips("memory://bucket", cache=tmp_path / "cache").clips
    assert [read(clip) for clip in clips] == [content(n) for n in range(6)]
    store.pipe_file("/bucket/shard-000001.tar", b"cut off")
    with pytest.raises(MediaError, match=r"memory://bucket/shard-000001.tar: 00000003-0000.mov: shard: .* in place of"):
        read(read_clips("memory://bucket", cache=tmp_path / "other").clips[3])
    store.rm("/bucket/index.json")
    with pytest.raises(ManifestError, match=r"^memory://bucket: index.json: no such file$"):
        read_clips("memory://bucket")


def test_a_store_without_its_package_or_name():
    with pytest.raises(ManifestError, match=r"^nosuch://bucket: nosuch:// cannot be read: "):
        read_clips("nosuch://bucket")
