"""Files: media below a folder, and what appears whole or not at all."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

import pytest

from vatt import files
from vatt.files import (
    appearing,
    appearing_folder,
    kind_of,
    remove_partly,
    walk,
    write_bytes,
    write_lines,
    write_text,
)
from vatt.json_files import json_line


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_walk_takes_the_media_files_of_the_asked_kinds_in_order(tmp_path):
    make(tmp_path / "a", "2.MP4", "1.wav", "deep/3.png", ".hidden.mp4", "notes.txt", "mp4")
    make(tmp_path / "elsewhere", "0.mp4")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path / "a")  # a circle

    def found(*kinds):
        return [path.relative_to(tmp_path / "a").as_posix() for path in walk(tmp_path / "a", kinds)]

    assert found("video") == ["2.MP4", "link/0.mp4"]
    assert found("image", "audio") == ["1.wav", "deep/3.png"]
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "absent", ("video",)))
    assert [kind_of(Path(name)) for name in ("a.MOV", "b.flac", "c.JPEG", "d.txt", "e")] == [
        "video",
        "audio",
        "image",
        None,
        None,
    ]


def test_files_are_written_whole(tmp_path):
    write_text(tmp_path / "a.txt", "grün\n")
    write_bytes(tmp_path / "b", b"\x00\xff")
    write_lines(tmp_path / "c.jsonl", (str(number) for number in range(3)))
    assert (tmp_path / "a.txt").read_bytes() == "grün\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert (tmp_path / "c.jsonl").read_text() == "0\n1\n2\n"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a").write_text("old")
    (tmp_path / ".a.partly").write_text("of a process that was killed, and longer than what follows")

    def lines():
        yield "new"
        raise error

    with pytest.raises(type(error)):
        write_lines(tmp_path / "a", lines())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    with appearing(tmp_path / "a") as partly:
        partly.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def interrupt(path):
    path.write_text("2")
    raise KeyboardInterrupt


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "page")
    assert os.read(reader, 10) == b"page"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    with appearing_folder(out) as partly:
        (partly / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    usual = tmp_path / "usual"
    usual.mkdir()
    assert out.stat().st_mode == usual.stat().st_mode
    with pytest.raises(KeyboardInterrupt), appearing_folder(out, replace=True) as partly:
        interrupt(partly / "x")
    with pytest.raises(OSError), appearing_folder(out):  # noqa: PT011  # not empty: its number depends on the system
        pass
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "x").read_text() == "1"
    with appearing_folder(out, replace=True) as partly:
        (partly / "y").touch()
    assert [path.name for path in out.iterdir()] == ["y"]


def test_a_name_that_a_killed_rename_left_nobody_with_is_given_back(tmp_path):
    """As where two names cannot be exchanged: the new folder was whole when the old one gave up its name."""
    old, new = ".a.b.12ab34cd.old.partly", ".a.b.12ab34cd.partly"
    for left, kept in (((old,), "old"), ((old, new), "new")):
        folder = tmp_path / kept
        for name in left:
            (folder / name).mkdir(parents=True)
            (folder / name / ("old" if "old" in name else "new")).touch()
        remove_partly(folder, "a.b")
        assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))] == ["a.b", f"a.b/{kept}"]


def test_what_others_are_writing_beside_it_stays(tmp_path):
    """Under a name that begins alike, or that a pattern of one's own name would match."""
    with appearing_folder(tmp_path / "run.2") as longer, appearing_folder(tmp_path / "1") as matched:
        for name in ("run", "[1]"):
            (tmp_path / f".{name}.12ab34cd.partly").mkdir()
            remove_partly(tmp_path, glob.escape(name))
            assert not (tmp_path / f".{name}.12ab34cd.partly").exists()
        assert longer.is_dir()
        assert matched.is_dir()


def test_a_folder_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")))
    rename = os.replace
    monkeypatch.setattr(files.os, "replace", lambda *names: (done.append("rename"), rename(*names)))
    with appearing_folder(tmp_path / "out", sync=True) as partly:
        (partly / "x").touch()
    assert done == [str(partly / "x"), str(partly), "rename", str(tmp_path)]


def test_json_holds_any_name_of_a_file():
    assert json_line({"a": "grün"}) == '{"a": "grün"}'
    odd = os.fsdecode(b"caf\xe9.mp4")
    line = json_line({"a": odd})
    line.encode("utf-8")
    assert json.loads(line) == {"a": odd}
