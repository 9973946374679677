"""``vatt data pack``: what is in the shards, faults, restarts, several jobs, and a disk that is full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.media import click_at, write
from tests.data.test_pack_transcode import counting
from tests.limits import HANG
from vatt.__main__ import main as vatt
from vatt.data.clips import Clip
from vatt.data.manifest import read_clips
from vatt.data.pack import PackError, PackJob, pack, tasks
from vatt.data.pack.groups import WORK
from vatt.data.shards.format import FAULTS, INDEX, Settings, read_index
from vatt.data.shards.lines import member_text, read_sources

pytestmark = pytest.mark.slow  # processes start, and films are written

SETTINGS = Settings(64, 10.0, 3.2, 60.0, 10**9, 48000, "mpeg4 q=3", "pcm", "mjpeg q=2")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A manifest of six files, one torn, one missing, one that is no video; rows with ranges, labels, captions."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(4):
        write(folder / f"film{number}.mkv", counting(60), fps=10, sound=click_at(0.5 + number, 6), gop=10)
    long = write(folder / "long.mkv", counting(200), fps=10, sound=click_at(1, 20), gop=10)
    (folder / "torn.mkv").write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    long.unlink()
    (folder / "junk.mp4").write_bytes(b"not a video" * 50)
    write(folder / "tone.wav", None, sound=click_at(1, 5), audio_codec="pcm_s16le")
    captions = {"start": [0.0, 4.0], "end": [2.0, 5.5], "text": ["first", "läst"]}
    rows = [{"video": f"film{n}.mkv", "label": f"class {n}", "split": "train", "mood": "sad"} for n in range(3)]
    rows += [{"video": "film3.mkv", "start": 0.5, "end": 3.0, "captions": captions}]
    rows += [{"video": "film3.mkv", "start": 1.0, "end": 5.5, "label": "x"}]
    rows += [{"video": "torn.mkv", "start": 0.0, "end": 1.0}, {"video": "torn.mkv", "start": 4.0, "end": 19.0}]
    rows += [{"video": "junk.mp4"}, {"video": "none.mp4"}, {"audio": "tone.wav", "label": "tone"}]
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job(data: Path, out: Path, **options) -> PackJob:
    settings = {name: options.pop(name) for name in list(options) if name in vars(SETTINGS)}
    return PackJob(data, out, replace(SETTINGS, **settings), **{"workers": 2, "seconds": 120.0} | options)


def sums(out: Path) -> dict[str, str]:
    """The checksum of each file that is not of the work itself."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.name != WORK}


@pytest.fixture(scope="module")
def packed(films, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    pack(job(films, out, shard_size=1_600_000))
    return out


def test_what_is_in_the_shards(films, packed):
    index = read_index((packed / INDEX).read_bytes(), INDEX)
    assert index.sources == 6  # four films, the good part of the torn one, the tone
    assert index.clips == 7
    assert len(index.shards) > 2
    for shard in index.shards:
        content = (packed / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
        text = (packed / shard.lines).read_bytes()
        assert (len(text), hashlib.sha256(text).hexdigest()) == (shard.lines_bytes, shard.lines_sha256)
        with tarfile.open(packed / shard.file) as tar:
            members = tar.getmembers()
            stems = [member.name.split(".")[0] for member in members]
            assert stems[::2] == stems[1::2]  # KEY.mkv, KEY.json: neighbours
            assert all(member.isreg() and member.mtime == 0 for member in members)
            for source in read_sources(text.splitlines(), shard.lines):
                assert source.sha256 == hashlib.sha256((films.parent / source.source).read_bytes()).hexdigest()
                for piece in source.pieces:
                    member = tar.getmember(piece.name)
                    assert (member.offset_data, member.size) == (piece.offset, piece.size)
                    data = content[piece.offset :][: piece.size]
                    assert hashlib.sha256(data).hexdigest() == piece.sha256
                    beside = tar.extractfile(piece.name.replace("mkv", "json").replace("wav", "json"))
                    assert beside.read() == member_text(source, piece, index.settings)


def test_clips_come_back_in_the_order_of_the_manifest(films, packed):
    ours, back = read_clips(films).clips, list(read_clips(packed).clips)
    bad = {("junk.mp4", None), ("torn.mkv", 4.0)}
    good = [clip for clip in ours if (clip.video.name, clip.start) not in bad]

    def plain(clip: Clip) -> tuple:
        about = (clip.start, clip.end, clip.label, clip.split, clip.extra, clip.kind)
        return clip.video.name, *about, tuple(clip.captions)

    assert [plain(clip) for clip in back] == [plain(clip) for clip in good]
    assert [caption.text for caption in back[3].captions] == ["first", "läst"]


def test_faults_are_listed(films, packed):
    faults = [json.loads(line) for line in (packed / FAULTS).read_text().splitlines()]
    found = {(Path(fault["file"]).name, fault["field"]): fault["reason"] for fault in faults}
    assert found.keys() == {("junk.mp4", "container"), ("torn.mkv", "video"), ("none.mp4", "video")}
    assert "no such file" in found["none.mp4", "video"]
    assert "breaks off at" in found["torn.mkv", "video"]
    assert "(1 of 2 clips)" in found["torn.mkv", "video"]
    assert len(faults) == read_index((packed / INDEX).read_bytes(), INDEX).faults


def test_other_numbers_of_processes_and_jobs_give_the_same_bytes(films, packed, tmp_path):
    options = dict(shard_size=1_600_000)
    assert pack(job(films, tmp_path / "one", workers=1, **options)).index is not None
    assert sums(tmp_path / "one") == sums(packed)
    left = []
    for place in (2, 1, 3):
        result = pack(job(films, tmp_path / "three", workers=1, share=(place, 3), **options))
        left.append(result.left)
        assert (result.index is None) == (place != 3)
    assert left[0] > left[1] > left[2] == 0
    assert sums(tmp_path / "three") == sums(packed)


def test_a_finished_folder(films, packed, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir() if path.is_file()}
    (left := packed / WORK / "000000").mkdir()  # the pieces, where a start was killed in its last moment
    assert pack(job(films, packed, shard_size=1_600_000)).nothing_to_do
    assert not left.exists()
    assert before == {path: path.stat().st_mtime_ns for path in packed.iterdir() if path.is_file()}
    with pytest.raises(PackError, match=r"was begun with fps 10.0, not 5.0; choose another --out"):
        pack(job(films, packed, shard_size=1_600_000, fps=5.0))
    other = films.with_name("other.jsonl")
    other.write_text("".join(films.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(PackError, match="was begun with other rows or captions than"):
        pack(job(other, packed, shard_size=1_600_000))
    with pytest.raises(PackError, match="holds shards, which are packed already"):
        pack(job(packed, tmp_path))
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(PackError, match=r"holds shard-000000.tar, but not from this command"):
        pack(job(films, tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"shards": [], "shards": []}', '{"shards": NaN}'])
def test_a_record_of_a_group_that_is_damaged_is_named(films, packed, tmp_path, content):
    shutil.copytree(packed, tmp_path / "out")
    record = tmp_path / "out" / WORK / "group-000000.json"
    record.write_text(content)
    with pytest.raises(PackError, match=r"group-000000\.json: .*; remove this file, and the group is packed again"):
        pack(job(films, tmp_path / "out", workers=1, shard_size=1_600_000))


def test_changed_sources_are_noticed(tmp_path):
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    path = write(folder / "a.mp4", counting(20), fps=10)
    pack(job(folder, out, workers=1))
    os.utime(path)  # another date alone is no change
    assert pack(job(folder, out, workers=1)).nothing_to_do
    path.write_bytes(path.read_bytes() + b"1")
    with pytest.raises(PackError, match=r"a\.mp4: has changed since it was packed"):
        pack(job(folder, out, workers=1))


def test_a_lock_keeps_others_out(films, tmp_path):
    import fcntl

    (tmp_path / WORK).mkdir()
    with (tmp_path / WORK / "group-000000.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = pack(job(films, tmp_path, shard_size=1_600_000))
        assert result.index is None
        assert result.left == 1
    assert pack(job(films, tmp_path, shard_size=1_600_000)).index is not None


def full(task):
    """A disk without room after two pieces."""
    done = len(list(task.folder.parent.glob("*/*.mkv")))
    if isinstance(task, tasks.PieceTask) and done >= 2:
        return tasks.CannotWrite(str(OSError(errno.ENOSPC, "No space left on device")))
    return tasks.run_task(task)


def test_a_full_disk_is_one_line_and_loses_nothing(films, packed, tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.data.pack.groups.run_task", full)
    with pytest.raises(PackError, match=r"No space left on device; what is packed so far stays"):
        pack(job(films, tmp_path, shard_size=1_600_000))
    kept = {path: path.stat().st_ino for path in tmp_path.glob(f"{WORK}/*/*.mkv")}
    assert len(kept) >= 2
    assert not (tmp_path / INDEX).exists()
    monkeypatch.undo()
    pack(job(films, tmp_path, shard_size=1_600_000))
    assert sums(tmp_path) == sums(packed)


def test_a_write_that_fails_stops_the_job(tmp_path, monkeypatch):
    source = write(tmp_path / "a.mp4", counting(20), fps=10)
    half = Path.write_bytes

    def no_room(path, content):
        half(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    result = tasks.run_task(tasks.ProbeTask(source, "video", 0, tmp_path))
    assert result == tasks.CannotWrite(f"{tmp_path}: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]  # no half-written file


def command(films: Path, out: Path) -> list[str]:
    options = ["--size", "64", "--shard-size", "1.6", "--jobs", "2"]
    return [sys.executable, "-m", "vatt", "data", "pack", str(films), "--out", str(out), *options]


def test_killed_anywhere_the_shards_are_the_same(films, packed, tmp_path):
    """Kills the job when it has left a random number of files behind. VATT_KILLS=20 does so more often."""
    chance = random.Random(0)
    kills, out, number = 0, tmp_path / "out0", 0
    while kills < int(os.environ.get("VATT_KILLS", "2")):
        process = subprocess.Popen(command(films, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first, more, end = len(list(out.rglob("*"))), chance.randrange(1, 12), time.monotonic() + HANG
        while process.poll() is None and len(list(out.rglob("*"))) < first + more and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        ended = process.poll() is not None
        process.kill()
        process.wait()
        kills += not ended
        if (out / INDEX).exists():  # never before all is there
            assert sums(out) == sums(packed)
            number += 1
            out = tmp_path / f"out{number}"
    subprocess.run(command(films, out), check=True, capture_output=True)
    assert sums(out) == sums(packed)


def heed_interrupts() -> None:
    """A shell that starts the tests in the background has interrupts ignored, by all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly(films, tmp_path, number, status):
    for attempt in range(5):
        out = tmp_path / str(attempt)
        process = subprocess.Popen(
            command(films, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
        )
        while not list(out.glob(f"{WORK}/*/*.json")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if not (out / INDEX).exists():  # else it had ended before the signal came
            break
    assert process.returncode == status, errors
    words = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert errors.splitlines()[-1].startswith(f"{words}: what is packed so far stays")
    assert not list(tmp_path.rglob("*.partly"))


def test_the_command(films, packed, capsys, tmp_path):
    arguments = ["data", "pack", str(films), "--out", str(packed), "--size", "64", "--shard-size", "1.6", "--jobs", "1"]
    assert vatt(arguments) == 0
    assert "is finished, nothing was left to do" in capsys.readouterr().out
    for wrong, words in (
        (["--size", "63"], "--size: must be even, got 63"),
        (["--fps", "0"], "--fps: must be from 0.5 to 240, got 0"),
        (["--shard-of", "3/2"], "--shard-of 3/2: must be i/n with i from 1 to n"),
        (["--shard-of", "a"], "--shard-of a: must be I/N"),
        (["--quality", "99"], "--quality: must be from 1 to 31, got 99"),
        (["--jobs", "0"], "--jobs: must be from 1 to"),
        (["--jobs", "100000"], "--jobs: must be from 1 to"),
        (["--seconds", "nan"], "--seconds: must be above 0, got nan"),
    ):
        assert vatt(["data", "pack", str(films), "--out", str(tmp_path), *wrong]) == 1
        assert words in capsys.readouterr().err


def test_webdataset_reads_them(films, packed):
    webdataset = pytest.importorskip("webdataset")
    paths = sorted(str(path) for path in packed.glob("*.tar"))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(samples) == read_index((packed / INDEX).read_bytes(), INDEX).pieces
    for sample in samples:
        assert {"mkv", "json"} <= sample.keys() or {"wav", "json"} <= sample.keys()
        assert json.loads(sample["json"])["rows"]
