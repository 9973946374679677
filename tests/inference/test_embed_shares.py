"""``vatt embed --shard-of i/n``: independent jobs that may be killed, and the file that they make together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.inference.library_models import media, save_model
from tests.limits import HANG
from vatt.__main__ import main
from vatt.inference.output import EmbedError
from vatt.inference.shares import Share


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and four good videos with a bad one between them."""
    place = tmp_path_factory.mktemp("place")
    save_model(place / "m")
    (place / "videos").mkdir()
    media(place / "videos")
    (place / "videos" / "1b.mp4").write_bytes(b"not a video")
    return place


def words(place, out, *more):
    fixed = ["--windows", "1", "--batch-size", "1", "--workers", "0", "--device", "cpu"]
    return ["embed", str(place / "videos"), "--model", str(place / "m"), "--out", str(out), *fixed, *more]


def content(out):
    names = (".npy", ".json", ".faults.jsonl")
    return [out.with_suffix(name).read_bytes() for name in names]


def test_the_shares_of_jobs_make_the_file_of_one_job(place, tmp_path, capsys):
    whole, out = tmp_path / "whole.npy", tmp_path / "v.npy"
    assert main(words(place, whole)) == 0
    for share in ("2/3", "1/3", "2/3"):
        assert main(words(place, out, "--shard-of", share)) == 0
    said = capsys.readouterr()
    assert "v.npy, 2/3: 1 rows; 2 clips in" in said.out
    assert "1 could not be embedded; --join lists them" in said.err
    assert "nothing was left to embed" in said.out
    assert main(words(place, out, "--join")) == 1
    assert f"{out}: not done: --shard-of 3/3" in capsys.readouterr().err
    assert not out.exists()
    assert main(words(place, out, "--shard-of", "3/3")) == 0
    assert main(words(place, out, "--join")) == 0
    assert "4 rows; joined" in capsys.readouterr().out
    assert content(out) == content(whole)
    assert sorted(path.name for path in tmp_path.glob("v*")) == ["v.faults.jsonl", "v.json", "v.npy"]
    assert main(words(place, out, "--shard-of", "1/3")) == 0  # a job that comes late
    assert "nothing was left to embed; 4 rows" in capsys.readouterr().out


KILLED = """
import os, signal, sys
from vatt.inference import job
inner = job.Parts.write
def write(parts, batches):
    inner(parts, batches)
    os.kill(os.getpid(), signal.SIGKILL)
job.Parts.write = write
job._SECONDS = 0.0
from vatt.__main__ import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_and_gives_the_same(place, tmp_path):
    whole, out = tmp_path / "whole.npy", tmp_path / "v.npy"
    assert main(words(place, whole)) == 0
    command = [sys.executable, "-c", KILLED, *words(place, out, "--shard-of", "1/2")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=HANG)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("v-*.parts")
    assert len(list(left.glob("part-*"))) == 1
    for share in ("1/2", "2/2"):
        assert main(words(place, out, "--shard-of", share)) == 0
    assert main(words(place, out, "--join")) == 0
    assert content(out) == content(whole)


def test_a_part_that_was_cut_is_done_again(place, tmp_path, capsys):
    out = tmp_path / "v.npy"
    for share in ("1/2", "2/2"):
        assert main(words(place, out, "--shard-of", share)) == 0
    (part,) = (tmp_path / "v-00002-of-00002.parts").glob("part-*")
    part.write_bytes(part.read_bytes()[:40])
    assert main(words(place, out, "--join")) == 1
    assert f"{part.name} could not be read; run --shard-of 2/2 again" in capsys.readouterr().err
    assert main(words(place, out, "--shard-of", "2/2")) == 0
    assert main(words(place, out, "--join")) == 0
    assert len(np.load(out)) == 4


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "1.5/3"])
def test_nonsense_is_refused(text):
    with pytest.raises(EmbedError, match=r"must be i/n with i from 1 to n"):
        Share.read(text)


def test_every_item_is_in_one_share():
    numbers = [number for index in range(1, 8) for number in Share(index, 7).of(100)]
    assert numbers == list(range(100))
    assert {len(Share(index, 7).of(100)) for index in range(1, 8)} == {14, 15}
    with pytest.raises(EmbedError, match="only 6 items to share out"):
        Share(1, 7).of(6)


def test_parts_that_do_not_belong_together_are_refused(place, tmp_path, capsys):
    out = tmp_path / "v.npy"
    assert main(words(place, out, "--join")) == 1
    assert "no parts of it are there" in capsys.readouterr().err
    assert main(words(place, out, "--shard-of", "1/2")) == 0
    assert main(words(place, out, "--shard-of", "1/3")) == 0
    assert main(words(place, out, "--join")) == 1
    assert "v-*-of-00002.parts and v-*-of-00003.parts; remove those that are old" in capsys.readouterr().err
    (tmp_path / "v-00001-of-00003.parts" / "finished.json").write_text("{")
    assert main(words(place, out, "--shard-of", "1/3")) == 1
    assert "finished.json: cannot be read" in capsys.readouterr().err
    assert json.loads((tmp_path / "v-00001-of-00002.parts" / "finished.json").read_text()) == {"items": 2, "faults": 0}
    assert main(words(place, out, "--shard-of", "2/2", "--windows", "2")) == 0
    for path in (tmp_path / "v-00001-of-00003.parts").iterdir():
        path.unlink()
    (tmp_path / "v-00001-of-00003.parts").rmdir()
    assert main(words(place, out, "--join")) == 1
    assert "windows was 2, is 1" in capsys.readouterr().err
