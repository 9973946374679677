"""The cache of pieces: bounded, whole or absent, checked, shared by processes that may be killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.limits import HANG
from vatt.data.shards.cache import CacheError, Damaged, Entry, PieceCache, default_folder

FORK = multiprocessing.get_context("fork")


def entry(number: int, size: int = 1000) -> tuple[str, bytes]:
    content = random.Random(number).randbytes(size)
    return hashlib.sha256(content).hexdigest(), content


def put(cache, *numbers, size=1000):
    for number in numbers:
        name, content = entry(number, size)
        found = cache.load(name, size, lambda content=content: content, HANG)
        if isinstance(found, Entry):
            found.close()


def get(cache, number, size=1000):
    found = cache.open(entry(number, size)[0], size)
    if found is None:
        return None
    try:
        return found.read(0, size)
    finally:
        found.close()


def there(cache, numbers, size=1000):
    return [number for number in numbers if cache.path(entry(number, size)[0]).exists()]


def stored(folder):
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_an_entry_comes_back_and_is_not_there_before(tmp_path):
    cache = PieceCache(tmp_path / "a" / "b", 10**6)
    assert get(cache, 1) is None
    put(cache, 1)
    assert cache.has(entry(1)[0])
    assert get(cache, 1) == get(PieceCache(tmp_path / "a" / "b", 10**6), 1) == entry(1)[1]


def test_any_part_of_an_entry(tmp_path):
    cache = PieceCache(tmp_path, 10**6)
    size = 3 * 2**16 + 777
    put(cache, 1, size=size)
    name, content = entry(1, size)
    found = cache.open(name, size)
    for at in (0, 1, 2**16 - 1, 2**16, 2**17 + 5, size - 1):
        for length in (1, 2**16, 2**16 + 1, 2**18):
            length = min(length, size - at)
            assert found.read(at, length) == content[at : at + length]
    cache.path(name).unlink()  # another process makes room
    assert found.read(5, 10) == content[5:15]
    found.close()
    found.close()


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = PieceCache(tmp_path, 10_040)
    for number in range(10):
        put(cache, number)
        os.utime(cache.path(entry(number)[0]), (number, number))
    assert get(cache, 0)  # used now
    put(cache, 10)
    assert there(cache, range(11)) == [0, *range(3, 11)]  # down to 90% at once
    assert stored(tmp_path) == 9 * 1004


def _fill(folder, seed):
    cache, draw = PieceCache(folder, 60_000), random.Random(seed)
    for _ in range(150):
        put(cache, draw.randrange(200), size=1000)


def test_the_bound_holds_for_many_processes(tmp_path):
    started = [FORK.Process(target=_fill, args=(tmp_path, seed)) for seed in range(3)]
    for process in started:
        process.start()
    most = 0
    while any(process.is_alive() for process in started):
        most = max(most, stored_safely(tmp_path))
    for process in started:
        process.join(HANG)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert 40_000 < stored(tmp_path) <= 60_000
    assert most <= 63_000  # entries that other processes count already, and have not renamed yet


def stored_safely(folder):
    total = 0
    for path in folder.glob("??/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _fill_for_ever(folder, number, ready):
    cache = PieceCache(folder, 3_000_000)
    ready.set()
    while True:
        put(cache, number, size=200_000)
        number += 1


def test_kills_leave_whole_entries_and_the_bound(tmp_path):
    for kill in range(6):
        ready = FORK.Event()
        process = FORK.Process(target=_fill_for_ever, args=(tmp_path, 1000 * kill, ready))
        process.start()
        assert ready.wait(HANG)
        time.sleep(0.05 + 0.02 * kill)
        process.kill()
        process.join(HANG)
    whole = list(tmp_path.glob("??/[0-9a-f]*"))
    assert whole
    assert all(hashlib.sha256(path.read_bytes()[:200_000]).hexdigest() == path.name for path in whole)
    cache = PieceCache(tmp_path, 3_000_000)
    for path in tmp_path.glob("??/.*"):
        os.utime(path, (0, 0))  # left long ago
    put(cache, *range(9000, 9030), size=200_000)  # goes on, and reads the folder when it is full
    assert not list(tmp_path.glob("??/.*"))
    assert 2_000_000 < stored(tmp_path) <= 3_000_000


@pytest.mark.parametrize("damage", [b"", b"short", bytes(2000)])
def test_an_entry_of_another_length_is_deleted(tmp_path, damage, caplog):
    cache = PieceCache(tmp_path, 10**6)
    put(cache, 1)
    path = cache.path(entry(1)[0])
    path.write_bytes(damage)
    assert get(cache, 1) is None
    assert f"{path}: its length is wrong: this piece of a shard is fetched again" in caplog.text
    assert not path.exists()
    put(cache, 1)
    assert get(cache, 1) == entry(1)[1]


@pytest.mark.parametrize("place", [0, 70_000, 199_999, 200_003])
def test_a_changed_bit_is_noticed_where_it_is_read(tmp_path, place):
    cache = PieceCache(tmp_path, 10**6)
    put(cache, 1, size=200_000)
    path = cache.path(entry(1, 200_000)[0])
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match="its content has changed"):
        get(cache, 1, 200_000)


def test_a_wrong_count_is_mended_by_reading_the_folder(tmp_path):
    for number, text in enumerate(("", "nonsense", f"{10**9:020d}")):
        folder = tmp_path / str(number)
        cache = PieceCache(folder, 10_000)
        (folder / "used").write_text(text)
        put(cache, *range(8))
        assert there(cache, range(8)) == list(range(8))
        assert int((folder / "used").read_text()) == 8 * 1004


def test_an_entry_is_fetched_once_by_many(tmp_path):
    name, content = entry(1)
    asked = []

    def fetch():
        asked.append(1)
        time.sleep(0.2)
        if len(asked) == 1:
            raise RuntimeError("the first one fails")
        return content

    def load(_):
        try:
            found = PieceCache(tmp_path, 10**6).load(name, 1000, fetch, HANG)
            return found.read(0, 1000) if isinstance(found, Entry) else found
        except RuntimeError:
            return None

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(load, range(6)))
    assert found.count(content) == 5
    assert len(asked) == 2
    assert [path.name for path in tmp_path.glob("??/*")] == [name]


def test_who_waits_too_long_fetches_for_itself(tmp_path):
    name, content = entry(1)
    cache = PieceCache(tmp_path, 10**6)
    file = cache._begin(name, 1.0)
    assert cache.load(name, 1000, lambda: content, 0.05) == content
    os.close(file)


def test_nothing_is_kept_beyond_the_bound(tmp_path):
    put(PieceCache(tmp_path / "none", 0), 1)
    assert not (tmp_path / "none").exists()
    cache = PieceCache(tmp_path / "small", 1003)
    put(cache, 1)
    assert stored(tmp_path / "small") == 0


def test_a_full_disk_costs_a_warning_and_no_clip(tmp_path, monkeypatch, caplog):
    cache = PieceCache(tmp_path, 10**6)

    def full(file, content, offset, write=os.pwrite):
        if len(content) > 100:
            raise OSError(28, "No space left on device")
        return write(file, content, offset)

    monkeypatch.setattr("os.pwrite", full)
    put(cache, 1, 2)
    assert caplog.text.count("the cache of pieces cannot be used: No space left on device") == 1
    assert not list(tmp_path.glob("??/*"))
    assert not cache.works
    assert cache.load(entry(1)[0], 1000, lambda: entry(1)[1], 1.0) == entry(1)[1]


def test_the_cache_of_another_user_can_be_read(tmp_path, monkeypatch, caplog):
    put(PieceCache(tmp_path, 10**6), 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.utime", refuse)
    cache = PieceCache(tmp_path, 10**6)
    assert get(cache, 1) == entry(1)[1]
    assert cache.works
    assert not caplog.text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"^data.cache: .*/file/cache: cannot be made: Not a directory$"):
        PieceCache(tmp_path / "file" / "cache", 1)


def test_the_folder_of_the_user(monkeypatch):
    monkeypatch.setenv("VATT_CACHE", "/somewhere")
    assert str(default_folder()) == "/somewhere/pieces"
    monkeypatch.delenv("VATT_CACHE")
    assert default_folder().parts[-3:] == (".cache", "vatt", "pieces")
