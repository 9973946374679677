"""Pretraining, evaluation and embedding from shards, in a folder and on a web server, as a user starts them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.shard_files import Server
from tests.train.pretraining import SGD, losses, refused, words_of
from tests.train.ranks import run_commands
from vatt.data import read_clips
from vatt.data.pack import PackJob, pack
from vatt.data.shards.format import Settings
from vatt.inference.job import EmbedJob, embed_dataset
from vatt.sample import build

pytestmark = pytest.mark.slow
SETTINGS = Settings(112, 10.0, 3.2, 60.0, 2_000_000, 48000, "mpeg4 q=3", "pcm", "mjpeg q=3")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The manifest of a small sample, and its shards."""
    folder = tmp_path_factory.mktemp("sample")
    manifest = build(folder / "clips", train=16, val=12, workers=2, say=lambda text: None)
    assert pack(PackJob(manifest, folder / "shards", SETTINGS, workers=2)).faults == []
    assert len(list((folder / "shards").glob("*.tar"))) > 2
    return manifest, folder / "shards"


@pytest.fixture(scope="module")
def server(places):
    server = Server(places[1])
    yield server
    server.close()


@pytest.fixture(scope="module")
def found(places, server, tmp_path_factory):
    """Command lines, one after the other in one process: (folder, name -> (output, exit status))."""
    folder = tmp_path_factory.mktemp("runs")
    cache = f"data.cache={folder / 'cache'}"
    model = ["--model", folder / "url", "--batch-size", 4, "--workers", 1]
    jobs = {
        "files": ("pretrain", words_of(places[0], folder / "files", "--steps", 3, *SGD)),
        "shards": ("pretrain", words_of(places[1], folder / "shards", "--steps", 3, *SGD)),
        "url": ("pretrain", words_of(server.url, folder / "url", "--steps", 3, *SGD, cache)),
        "fps": (
            "pretrain",
            words_of(places[1], folder / "fps", "--steps", 3, "model.input.frames=40", "model.input.fps=12.5"),
        ),
        "window": ("pretrain", words_of(server.url, folder / "window", "--steps", 3, cache, "model.input.fps=2")),
        "absent": ("pretrain", words_of(f"{server.url}/absent", folder / "absent", "--steps", 3, cache)),
        "retrieval": ("evaluate", ["--task", "retrieval", *model, "--data", server.url, "--out", folder / "r.json"]),
        "again": ("evaluate", ["--task", "retrieval", *model, "--data", places[0], "--out", folder / "a.json"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VATT_CACHE", str(folder / "own cache"))
        told = run_commands(folder, list(jobs.values()))
    return folder, dict(zip(jobs, told, strict=True))


def test_losses_are_those_of_the_files_within_the_loss_of_the_codec(found):
    folder, told = found
    for name in ("files", "shards", "url"):
        assert told[name][1] == 0, told[name][0]
    files, shards = losses(folder / "files"), losses(folder / "shards")
    assert files.keys() == shards.keys() == {1, 2, 3}
    for step in (1, 2):  # of the same weights; the learning rate of step 1 is 0, and batch norm of 8 clips exaggerates
        assert shards[step] == pytest.approx(files[step], rel=0.05)
    assert losses(folder / "url") == shards  # the same bytes, from a server


def test_each_piece_is_fetched_once_by_all_jobs(found, server, places):
    pieces = {
        (line["file"], piece.offset, piece.size)
        for number, line in enumerate(json.loads((places[1] / "index.json").read_text())["shards"])
        for clip in read_clips(places[1]).clips
        if clip.packed._shard == number
        for piece in clip.packed.line.pieces
    }
    asked = server.asked(".tar")
    ranges = {
        (file, int(r[6:].split("-")[0]), int(r.split("-")[1]) + 1 - int(r[6:].split("-")[0])) for file, r in asked
    }
    assert ranges <= pieces
    assert sum(server.sent[file] for file in {file for file, _, _ in pieces}) == sum(
        int(r.split("-")[1]) + 1 - int(r[6:].split("-")[0]) for _, r in asked
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fps", "shards: packed with 10 frames a second, the model reads 12.5: pack with --fps 12.5"),
        ("window", "shards: packed for windows of up to 3.2 s, the model reads 4: pack with --window 4"),
        ("absent", "/shards/absent: index.json: the server answers 404"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(found, name, words):
    text, code = found[1][name]
    assert code == 1
    refused(text, words)


def test_evaluation_from_shards(found):
    folder, told = found
    for name in ("retrieval", "again"):
        assert told[name][1] == 0, told[name][0]
    shards, files = (json.loads((folder / name).read_text()) for name in ("r.json", "a.json"))
    assert shards["tables"].keys() == files["tables"].keys() != set()
    for name, table in files["tables"].items():
        assert shards["tables"][name]["chance"] == table["chance"]  # as many clips


@pytest.mark.parametrize("modality", ["video", "text"])
def test_embeddings_from_shards(found, places, server, tmp_path, monkeypatch, modality):
    monkeypatch.setenv("VATT_CACHE", str(tmp_path / "cache"))
    rows = []
    for name, source in (("files", places[0]), ("url", server.url)):
        out = tmp_path / f"{name}.npy"
        embed_dataset(EmbedJob(source, found[0] / "url", out, modality, windows=1, workers=0))
        rows.append(
            (np.load(out), [item["file"][-8:] for item in json.loads(out.with_suffix(".json").read_text())["rows"]])
        )
    assert rows[0][1] == rows[1][1]
    likeness = (rows[0][0] * rows[1][0]).sum(1)
    assert likeness.min() > (0.98 if modality == "video" else 0.9999)
