"""``vatt data check SHARDS/``: every fault is named by shard and member."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.media import click_at, write
from tests.data.test_pack_transcode import SETTINGS, counting
from vatt.__main__ import main as vatt
from vatt.data.check.shards import ShardFile as File
from vatt.data.check.shards import check_shard, check_shards
from vatt.data.pack.tasks import ShardTask, write_shards
from vatt.data.pack.transcode import transcode
from vatt.data.shards.format import INDEX, Index, Shard, ShardError, read_index
from vatt.data.shards.lines import PieceLine, RowLine, SourceLine

FIRST, SECOND = "shard-000000.tar", "shard-000001.tar"
PIECE = "00000001-00000.mkv"  # the second of the first shard


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two shards of two sources each, as a job writes them."""
    folder, out = tmp_path_factory.mktemp("pieces"), tmp_path_factory.mktemp("whole")
    film = write(folder / "film.mp4", counting(20), fps=10, sound=click_at(1, 2))
    content = transcode(film, "video", 0, 20, SETTINGS, 60).content
    shards: list[Shard] = []
    for group in range(2):
        sources = []
        for number in (2 * group, 2 * group + 1):
            name = f"{number:08d}-00000.mkv"
            (folder / name).write_bytes(content)
            pieces = [PieceLine(name, 0, 0, "", 0.0, 2.0)]
            rows = [RowLine(number, label="a")]
            sources.append(SourceLine(f"{number}.mp4", number, "video", 9, "0" * 64, 2.0, 2.0, rows, (), pieces))
        shards += write_shards(ShardTask(group, folder, out, sources, SETTINGS))
    (out / INDEX).write_text(Index(SETTINGS, "d", tuple(shards), 0).text())
    return out


@pytest.fixture
def shards(whole, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "shards")


def faults(folder: Path, quick: bool = False) -> list[tuple[str, str, str]]:
    """In this process, without the isolation."""
    index = read_index((folder / INDEX).read_bytes(), INDEX)
    found = [r for shard in index.shards for r in check_shard(File(folder, shard, index.settings, quick))]
    return [(Path(record["file"]).name, record["field"], record["reason"]) for record in found]


def test_whole_shards_have_no_fault(shards):
    assert faults(shards) == faults(shards, quick=True) == []


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def member(path: Path, name: str) -> tarfile.TarInfo:
    with tarfile.open(path) as tar:
        return tar.getmember(name)


def test_a_changed_byte_is_named_by_its_member(shards):
    change(shards / FIRST, member(shards / FIRST, PIECE).offset_data + 700, b"???")
    assert faults(shards) == [(FIRST, PIECE, "the checksum is not that of its line")]
    assert faults(shards, quick=True) == []


def test_a_changed_json(shards):
    name = PIECE.replace("mkv", "json")
    change(shards / FIRST, member(shards / FIRST, name).offset_data + 12, b"?")
    assert faults(shards) == [(FIRST, name, "is not what the line of its source says")]


def test_bytes_between_the_members(shards):
    change(shards / FIRST, (shards / FIRST).stat().st_size - 20, b"?")
    reason = "the checksum is not that of the index, though all members are right"
    assert faults(shards) == [(FIRST, "sha256", reason)]


@pytest.mark.parametrize("quick", [False, True])
def test_a_cut_shard(shards, quick):
    size = member(shards / FIRST, PIECE).offset_data + 1000
    with (shards / FIRST).open("r+b") as file:
        file.truncate(size)
    found = faults(shards, quick)
    assert found[0][:2] == (FIRST, "bytes")
    assert found[0][2].startswith(f"is cut off: has {size} bytes")
    if not quick:
        assert (FIRST, PIECE, found[-1][2]) == found[-1]
        assert found[-1][2].startswith("is cut off: 1000 of ")


@pytest.mark.parametrize("name", [SECOND, "shard-000001.jsonl"])
def test_a_missing_file(shards, name):
    (shards / name).unlink()
    assert faults(shards) == faults(shards, quick=True) == [(name, "file", "is missing")]


def rewrite(folder: Path, rename: dict[str, str]) -> None:
    """The first shard with other names in its tar, and an index that agrees."""
    path = folder / FIRST
    with tarfile.open(path) as tar:
        members = [(rename.get(info.name, info.name), tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    index = read_index((folder / INDEX).read_bytes(), INDEX)
    content = path.read_bytes()
    changed = replace(index.shards[0], bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / INDEX).write_text(replace(index, shards=(changed, index.shards[1])).text())


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.mkv", "a/../../up.mkv"])
def test_a_path_out_of_the_folder(shards, name):
    rewrite(shards, {PIECE: name})
    assert (FIRST, name, "is a path that leads out of the folder") in faults(shards)
    assert (FIRST, PIECE, "is missing in the tar") in faults(shards)


def test_a_member_that_nobody_asked_for(shards):
    rewrite(shards, {PIECE: "00000009-00000.mkv"})
    assert faults(shards) == [
        (FIRST, PIECE, "is missing in the tar"),
        (FIRST, "00000009-00000.mkv", "is not in the lines of the shard"),
    ]


def test_a_changed_line(shards):
    lines = shards / "shard-000000.jsonl"
    lines.write_text(lines.read_text().replace('"label": "a"', '"label": "b"', 1))
    found = faults(shards)
    assert found[0] == ("shard-000000.jsonl", "sha256", "the checksum is not that of the index")
    assert found[1] == (FIRST, "00000000-00000.json", "is not what the line of its source says")
    lines.write_text(lines.read_text()[5:])
    assert faults(shards)[-1][1] == "line"
    assert faults(shards)[-1][2].startswith("line 1: is not JSON")


def test_a_piece_that_does_not_decode(shards):
    """Its checksums are right: it was broken when it was packed."""
    index = read_index((shards / INDEX).read_bytes(), INDEX)
    line = json.loads((shards / "shard-000000.jsonl").read_text().splitlines()[1])
    name, offset, size = line["pieces"][0][:3]
    change(shards / FIRST, offset, b"?" * size)
    lines = (shards / "shard-000000.jsonl").read_text()
    lines = lines.replace(line["pieces"][0][3], hashlib.sha256(b"?" * size).hexdigest())
    (shards / "shard-000000.jsonl").write_text(lines)
    content = (shards / FIRST).read_bytes()
    sums = [hashlib.sha256(data).hexdigest() for data in (content, lines.encode())]
    changed = replace(index.shards[0], sha256=sums[0], lines_sha256=sums[1])
    (shards / INDEX).write_text(replace(index, shards=(changed, index.shards[1])).text())
    found = faults(shards)
    assert found
    assert all(fault[:2] in ((FIRST, name), (FIRST, "00000000-00000.mkv")) for fault in found)
    assert found[-1][2].startswith("cannot be decoded")


def test_a_folder_without_an_index(shards):
    (shards / INDEX).unlink()
    with pytest.raises(ShardError, match=r"index\.json: is missing: packing has not finished"):
        check_shards(shards)


@pytest.mark.slow
def test_the_command(shards, tmp_path, capsys):
    assert vatt(["data", "check", str(shards), "--workers", "1"]) == 0
    assert "2 shards, 4 pieces read in" in capsys.readouterr().out
    shutil.copy(shards / FIRST, shards / "shard-000007.tar")
    change(shards / FIRST, member(shards / FIRST, PIECE).offset_data + 700, b"???")
    report = tmp_path / "faults.jsonl"
    assert vatt(["data", "check", str(shards), "--workers", "1", "--report", str(report)]) == 1
    assert f"{FIRST}: {PIECE}: the checksum is not that of its line" in capsys.readouterr().out
    fields = [json.loads(line)["field"] for line in report.read_text().splitlines()]
    assert fields == [PIECE, "index"]
    assert vatt(["data", "check", str(shards), "--quick"]) == 1
    assert "shard-000007.tar: index: is not in index.json" in capsys.readouterr().out
    assert vatt(["data", "check", str(shards), "--out", str(tmp_path / "c.jsonl")]) == 1
    assert "--out: is for manifests" in capsys.readouterr().err
