"""A check that was stopped, also by a kill, goes on: what was tried is not tried again unless it has changed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.data.media import flash_at, write
from tests.limits import HANG
from vatt.__main__ import main as vatt
from vatt.data.check import check
from vatt.data.check.cache import ResultCache, cache_path, key_of
from vatt.data.reading import Vanished


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Three of a second, and one that is none."""
    monkeypatch.setenv("VATT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "films"
    folder.mkdir()
    film = write(folder / "0.mp4", flash_at(0.5, 1, 10, 32, 32)).read_bytes()
    for number in (1, 2):
        (folder / f"{number}.mp4").write_bytes(film)
    (folder / "3.mp4").write_bytes(b"not a video" * 50)
    return folder


def test_what_a_killed_check_has_tried_is_known_to_the_next(tmp_path):
    path = tmp_path / "cache.jsonl"
    process = os.fork()
    if process == 0:
        with ResultCache(path) as cache:
            cache.add("a", [1.5, None, None, []])
            cache.add("b", {"no": "cache"})
            cache._file.write('["c", [2.0, nul')
            cache._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    with ResultCache(path) as cache:
        assert (cache.found, cache.known("a"), cache.known("c")) == (2, [1.5, None, None, []], None)
        cache.add("d", 4)
        with ResultCache(path) as other:  # of a process of its own it would be refused; here nothing is lost
            assert other.found in (0, 3)
    with ResultCache(path) as cache:
        assert cache.known("d") == 4
        cache.remove()
    assert not path.exists()


def test_a_check_goes_on_where_it_was_stopped(films, tmp_path, capsys, monkeypatch):
    """Interrupted after two files, which are not tried again; one that has changed meanwhile is."""
    from vatt.cli import data

    real, told = data.progress, []

    class Told:
        def __init__(self, unit):
            self.inner = real(unit)

        def __enter__(self):
            tell = self.inner.__enter__()

            def stop(done, total, faults=0):
                tell(done, total, faults)
                told.append((done, total, faults))
                if len(told) == 2:
                    raise KeyboardInterrupt

            return stop

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    monkeypatch.setattr(data, "progress", Told)
    report = tmp_path / "faults.jsonl"
    command = ["data", "check", str(films), "--workers", "1", "--seconds", str(HANG), "--report", str(report)]
    assert vatt(command) == 130
    assert "interrupted: what was tried so far is kept" in capsys.readouterr().err
    path = cache_path(films)
    tried = [json.loads(json.loads(line)[0])[0] for line in path.read_text().splitlines()[1:]]
    assert len(tried) == 2
    os.utime(tried[0])
    assert vatt(command) == 0
    shown = capsys.readouterr()
    assert "going on: 2 were tried before" in shown.err
    assert "4 files tried" in shown.out
    assert told[2][:2] == (1, 4)  # the one that has not changed
    assert len(told) == 2 + 1 + 3
    assert told[-1] == (4, 4, 1)
    assert [Path(json.loads(line)["file"]).name for line in report.read_text().splitlines()] == ["3.mp4"]
    assert not path.exists()


def test_results_that_are_none_are_not_taken(films):
    with ResultCache(cache_path(films)) as cache:
        for path in films.iterdir():
            cache.add(key_of(path, "video", False, HANG, ()), ["odd"])
        found = check(films, workers=1, seconds=HANG, cache=cache)
    assert [row.clip.video.name for row in found.rows] == ["0.mp4", "1.mp4", "2.mp4"]


def test_files_that_vanish_end_a_check(films, tmp_path):
    with ResultCache(None) as cache:

        def away(done, total, faults):
            if films.exists():
                films.rename(tmp_path / "away")

        with pytest.raises(Vanished, match=r"its files are not there any more, such as .*\.mp4; is the disk"):
            check(films, workers=1, seconds=HANG, progress=away, cache=cache)
