"""``vatt index --shard-of i/n`` and ``--join``: independent jobs make the index that one job makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.media import write
from tests.inference.library_models import save_model, small_config
from tests.search.tiny import job
from vatt.__main__ import main
from vatt.inference.shares import Share
from vatt.search import Index, SearchError, build_index
from vatt.search.format import segment_paths
from vatt.search.joining import join_index

NAMES = ("a.wav", "b.wav", "inner/c.wav", "d.wav", "e.mp4")


def make_file(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(number)
    sound = rng.uniform(-0.5, 0.5, 3 * 8000).astype(np.float32)
    if path.suffix == ".mp4":
        write(path, rng.integers(0, 255, (12, 32, 48, 3), np.uint8), fps=4, sound=sound, rate=8000)
    else:
        write(path, None, sound=sound, rate=8000, audio_codec="pcm_s16le")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, four sounds and a film, a file that is none, and the index that one job makes of them."""
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "model")
    for number, name in enumerate(NAMES):
        make_file(folder / "films" / name, number)
    (folder / "films" / "bad.wav").write_bytes(b"no sound")
    build_index(job(folder, batch_size=1))
    return folder


@pytest.fixture
def own(made, tmp_path):
    """Model and files alone, for a test to change."""
    shutil.copytree(made / "films", tmp_path / "films")
    (tmp_path / "model").symlink_to(made / "model")
    return tmp_path


def share(folder, text, **options):
    return build_index(job(folder, batch_size=1, shard_of=Share.read(text), **options))


def content(index: Path):
    """Each file, window, vector and fault, bit for bit."""
    found = Index.open(index)
    files = [(file.name, file.kind, file.seconds, file.windows, file.sha256) for file in found.files]
    rows = [found.rows.file.tolist(), found.rows.start_s.tolist(), found.rows.end_s.tolist()]
    vectors = {name: (found.vectors(name).tobytes(), found.has(name).tobytes()) for name in found.spaces}
    return files, rows, vectors, (index / "faults.jsonl").read_bytes()


def words(place, *more):
    given = {"--model": place / "model", "--out": place / "index", "--batch-size": 1, "--workers": 0, "--device": "cpu"}
    return ["index", str(place / "films"), *(str(word) for pair in given.items() for word in pair), *more]


def test_the_shares_of_jobs_make_the_index_of_one_job(made, own, capsys):
    for text in ("2/3", "1/3", "2/3"):
        assert main(words(own, "--shard-of", text)) == 0
    said = capsys.readouterr().out
    assert "index, 2/3: 2 files, " in said
    assert "nothing has changed" in said
    assert not (own / "index").exists()
    assert main(words(own, "--join")) == 1
    assert "index: not done, or not of the files that are there now: --shard-of 3/3" in capsys.readouterr().err
    assert main(words(own, "--shard-of", "3/3")) == 0
    assert main(words(own, "--join")) == 0
    printed = capsys.readouterr()
    assert "index: 5 files, 10 windows; joined" in printed.out
    assert "left out, wholly or in part: 1 file; why: " in printed.err
    assert content(own / "index") == content(made / "index")
    assert not list(own.glob("index-*"))


def test_what_joins_takes_the_precision_of_the_shares(own):
    """Of the machines that embedded: where it is joined, there may be no GPU."""
    for text in ("1/2", "2/2"):
        share(own, text, precision="bf16")
    join_index(job(own))
    assert Index.open(own / "index").about.settings["precision"] == "bfloat16"


def test_an_index_is_brought_up_to_date_by_shares(made, own):
    """What it has is not done again, as after a job that was killed while it joined."""
    shutil.copytree(made / "index", own / "index")
    films = own / "films"
    (films / "a.wav").unlink()
    (films / "b.wav").rename(films / "moved.wav")
    make_file(films / "d.wav", 9)
    done = [share(own, text, moved=True) for text in ("1/2", "2/2")]
    assert sum(one.embedded for one in done) == 2  # d.wav
    parts = sorted(own.glob("index-*"))
    for part in parts:
        shutil.copytree(part, own / "kept" / part.name)
    for again in (False, True):
        if again:
            for part in parts:
                shutil.copytree(own / "kept" / part.name, part)
        assert join_index(job(own, moved=True)).windows == 8
    build_index(job(own, out=own / "whole", batch_size=1))
    assert content(own / "index") == content(own / "whole")
    assert build_index(job(own)).counts == {}


def test_shares_that_do_not_belong_together_are_refused(made, own, capsys):
    def refused(*more):
        assert main(words(own, *more)) == 1
        return capsys.readouterr().err

    assert "no parts of it are there; run the jobs first" in refused("--join")
    assert "--shard-of 3/2: must be i/n" in refused("--shard-of", "3/2")
    assert "--store: goes with --join, not with --shard-of" in refused("--shard-of", "1/2", "--store", "x")
    share(own, "1/2", hop=0.5)
    assert "index-00001-of-00002.parts: made with other settings: hop_s was 0.5, is 1.0" in refused("--join")
    assert "hop_s was 0.5, is 1.0" in refused("--shard-of", "1/2")
    shutil.rmtree(own / "index-00001-of-00002.parts")
    for text in ("1/2", "2/2"):
        share(own, text)
    with pytest.raises(SearchError, match=r"\.parts: was made with the model vatt-tiny of .* not with other-model of"):
        join_index(job(own, model=_other_model(own)))
    share(own, "1/3")
    assert "index-*-of-00002.parts and index-*-of-00003.parts; remove those that are old" in refused("--join")
    shutil.rmtree(own / "index-00001-of-00003.parts")
    late = own / "films" / "late.wav"
    make_file(late, 7)
    assert "or not of the files that are there now: --shard-of 1/2, 2/2" in refused("--join")
    late.unlink()
    (damaged,) = segment_paths(own / "index-00002-of-00002.parts")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert f"{damaged.name} could not be read; run --shard-of 2/2 again" in refused("--join")
    share(own, "2/2")
    (own / "index-00001-of-00002.parts" / "finished.json").write_text("{")
    assert "finished.json: cannot be read" in refused("--join")
    share(own, "1/2")
    join_index(job(own))
    assert content(own / "index") == content(made / "index")


def _other_model(folder: Path) -> Path:
    config = small_config()
    config.name, config.head.d_vat = "other-model", 6
    save_model(folder / "other", config)
    return folder / "other"


def test_a_file_is_in_one_share_whatever_others_there_are(made):
    for count in (1, 2, 7):
        jobs = [job(made, shard_of=Share(index, count)) for index in range(1, count + 1)]
        found = [[one.has(f"films/{number}.mp4") for one in jobs] for number in range(500)]
        assert all(sum(row) == 1 for row in found)
        assert all(sum(column) > 300 / count for column in zip(*found, strict=True))
    assert job(made, shard_of=Share(1, 2)).has("caf\udce9") != job(made, shard_of=Share(2, 2)).has("caf\udce9")
