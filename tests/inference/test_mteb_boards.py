"""The public tasks of mteb by their real classes, on small stand-ins of their data with the columns that they read.

Takes minutes, so it runs where VATT_TEST_MTEB is set: with torchcodec or without. mteb's own checks of models
(``mteb.mock_run``) run too.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from tests.inference.library_models import media, save_model, small_config
from vatt.__main__ import main
from vatt.inference.mteb import BOARDS, MTEBModel, media_as_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VATT_TEST_MTEB" not in os.environ, reason="takes minutes: set VATT_TEST_MTEB"),
    pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed: extra mteb"),
]
COUNT, CLASSES = 12, 3
CAPTIONS = [f"{a} {b}" for a in ("red", "blue", "moves") for b in ("circle", "square", "star", "spins")]
MORE = (
    *("MSRVTTT2VA", "MSRVTTVA2T", "MSRVTTAT2V", "MSRVTTVT2A"),
    *("UCF101VideoAudioClassification", "UCF101VideoAudioZeroShotClassification", "UCF101AudioVideoClustering"),
    *("HMDB51Clustering", "ESC50Clustering", "ESC50PairClassification", "ESC50AudioReranking", "AudioSetMini"),
    *("MusicAVQAVPairClassification", "MusicAVQAVAPairClassification", "EgoSchemaVideoCentricQA"),
    *("VCDBCoreRetrieval", "VCDBCoreAudioVideoRetrieval"),
)


class Hub:
    """Data sets by path and configuration, as ``datasets.load_dataset`` gives those of the hub."""

    def __init__(self, paths):
        import datasets

        self.paths, self.kinds = paths, {"video": datasets.Video, "audio": datasets.Audio}

    def table(self, **columns):
        """Columns by name; a kind of media stands for the clips' files, "audio2" for those of other clips."""
        from datasets import ClassLabel, Dataset

        made = {}
        for name, value in columns.items():
            shift = int(name.endswith("2"))
            stored = [
                {"bytes": self.paths[(n + shift * CLASSES) % COUNT].read_bytes(), "path": f"{n}.mp4"}
                for n in range(COUNT)
            ]
            made[name] = stored if isinstance(value, str) else value
        table = Dataset.from_dict(made)
        for name, value in columns.items():
            if isinstance(value, str):
                table = table.cast_column(name, self.kinds[value]())
        if "label" in columns and max(columns["label"]) < CLASSES and "video" in columns:
            table = table.cast_column("label", ClassLabel(names=["red_circle", "blue_star", "spins"]))
        return table

    def of(self, path, name=None):
        labels = [n % CLASSES for n in range(COUNT)]
        both = {"video": "video", "audio": "audio"}
        name = name or "default"
        ids = [f"x{n}" for n in range(COUNT)]
        if path in ("mteb/MSR-VTT", "mteb/YouCook2_val"):
            return self.table(**both, caption=CAPTIONS, sentence=CAPTIONS, video_id=ids)
        if path in ("mteb/UCF101-51VA", "mteb/HMDB51"):
            return self.table(**both, label=labels)
        if path == "mteb/esc50":
            return self.table(filename=ids, fold=labels, target=labels, audio="audio")
        if path == "mteb/audioset":
            return self.table(audio="audio", human_labels=[["a", "b", "c"][n % 3 :][: 1 + n % 2] for n in range(COUNT)])
        if path == "mteb/ESC50PairClassification":
            return self.table(audio1="audio", audio2="audio", label=[n % 2 for n in range(COUNT)])
        if path.startswith("zachz/MUSIC-AVQA-PC"):
            more = {"audio1": "audio", "audio2": "audio"} if path.endswith("VA") else {}
            return self.table(video1="video", video2="video", **more, label=[n % 2 for n in range(COUNT)])
        if path == "mteb/EgoSchema_subset":
            candidates = [CAPTIONS[n:][:3] + CAPTIONS[: max(0, n + 3 - COUNT)] for n in range(COUNT)]
            return self.table(
                question=["the red circle"] * COUNT, video="video", candidates=candidates, answer=CAPTIONS
            )
        kinds = {"audio": "audio"} if path == "mteb/ESC50AudioReranking" else {"video": "video"}
        kinds = both if path == "pranitchawla/VCDB-Core-AudioVideo" else kinds
        if name in ("corpus", "queries"):
            return self.table(id=[f"{name[0]}{n}" for n in range(COUNT)], **kinds)
        queries = [f"q{n}" for n in range(COUNT)]
        if name == "top_ranked" and path == "mteb/ESC50AudioReranking":
            return self.table(**{"query-id": queries, "corpus-ids": [[f"c{m}" for m in range(6)]] * COUNT})
        if name == "default":
            return self.table(
                **{"query-id": queries, "corpus-id": [f"c{n % 6}" for n in range(COUNT)], "score": [1] * COUNT}
            )
        raise AssertionError(f"{path}: {name}")

    def load(self, path, name=None, *, split=None, revision=None, **others):
        from datasets import DatasetDict

        assert revision, "mteb pins what it reads"
        found = self.of(path, name)
        return found if split else DatasetDict({"train": found, "test": found})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return media(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture
def hub(clips, monkeypatch):
    import datasets

    hub = Hub(clips)
    real = datasets.load_dataset
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in ("mteb", "datasets")]:
        if vars(module).get("load_dataset") is real:
            monkeypatch.setattr(module, "load_dataset", hub.load)
    loaders = importlib.import_module("mteb.abstasks.retrieval_dataset_loaders")

    def configurations(path, *others):
        return ["corpus", "queries", "default", *(["top_ranked"] if "Reranking" in path else [])]

    monkeypatch.setattr(loaders, "get_dataset_config_names", configurations)
    monkeypatch.setattr(loaders, "get_dataset_split_names", lambda *others, **more: ["test"])
    return hub


def results(out, name):
    import json

    (path,) = out.rglob(f"{name}.json")
    ((scores,),) = json.loads(path.read_text())["scores"].values()
    return scores


@pytest.mark.parametrize("head", ["fac", "joint"])
@pytest.mark.parametrize("torchcodec", [True, False])
def test_the_boards_of_the_paper_by_one_command(head, torchcodec, hub, tmp_path, capsys, monkeypatch, clips):
    import datasets

    if torchcodec:
        pytest.importorskip("torchcodec")
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", torchcodec)
    folder = save_model(tmp_path / "model", small_config(head=head))
    out = tmp_path / "results"
    command = ["mteb", "--model", str(folder), "--out", str(out), "--workers", "0"]
    with warnings.catch_warnings(action="ignore"):
        assert main(command) == 0, capsys.readouterr().err
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == list(BOARDS)
        assert main([*command, "--tasks", *MORE]) == 0, capsys.readouterr().err
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]] == list(MORE)
        status = main([*command, "--tasks", "ESC50_Zeroshot"])
        told = capsys.readouterr().err
    assert status == (head == "fac")
    assert ("ESC50_Zeroshot: SpaceError" in told and "no space in which it could compare" in told) == (head == "fac")
    model = MTEBModel.from_pretrained(folder, workers=0).model
    sides = {
        "V": {"T": model.embed_video(clips, space="text"), "A": model.embed_video(clips, space="audio")},
        "T": {"V": model.embed_text(CAPTIONS, space="video")},
        "A": {"V": model.embed_audio(clips, space="video")},
    }
    for query, document in ("TV", "VT", "AV", "VA"):
        x, y = sides[query][document].double(), sides[document][query].double()
        ranks = ((x @ y.T) >= (x * y).sum(1, keepdim=True) - 1e-6).sum(1)
        board = results(out, f"MSRVTT{query}2{document}")
        for k in (1, 3, 5, 10):
            assert board[f"recall_at_{k}"] == pytest.approx((ranks <= k).double().mean().item(), abs=1e-4)
        gain = torch.where(ranks <= 10, 1 / torch.log2(1 + ranks.double()), 0).mean().item()
        assert board["ndcg_at_10"] == pytest.approx(gain, abs=1e-4)
    names = model.embed_text([f"a video of {name}" for name in ("red circle", "blue star", "spins")], space="video")
    right = (sides["V"]["T"] @ names.T).argmax(1) == torch.arange(COUNT) % CLASSES
    assert results(out, "HMDB51ZeroShot")["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-4)
    seen = F.normalize(model.embed_video(clips, space="features"), dim=-1).numpy()
    heard = F.normalize(model.embed_audio(clips, space="features"), dim=-1).numpy()
    labels = np.arange(COUNT) % CLASSES
    for name, x in {
        "HMDB51Classification": seen,
        "UCF101VideoClassification": seen,
        "UCF101VideoAudioClassification": np.concatenate([seen, heard], 1),
    }.items():  # its training clips, all of which are used, are the test clips
        right = LogisticRegression(max_iter=100).fit(x, labels).score(x, labels)
        assert results(out, name)["accuracy"] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("head", ["fac", "joint"])
def test_the_checks_of_models_that_mteb_has(head, tmp_path, monkeypatch):
    import mteb.mocks
    from mteb.results import TaskResult

    grid = [*mteb.mocks.ALL_MOCK_TASK_TEST_GRID, *mteb.mocks.MOCK_MULTIMODAL_TASKS]
    checks = importlib.import_module("mteb.mocks.mock_run")  # mteb.mock_run is its function
    monkeypatch.setattr(checks, "ALL_MOCK_TASK_TEST_GRID", grid)
    model = MTEBModel.from_pretrained(save_model(tmp_path / "model", small_config(head=head)), workers=0)
    with media_as_files(), warnings.catch_warnings(action="ignore"):
        found = checks.mock_run(model)
    failed = {name: result.exception for name, result in found.items() if not isinstance(result, TaskResult)}
    refused = {"MockAudioZeroshotClassification", "MockAny2AnyRetrievalT2A", "MockAny2AnyRetrievalA2T"}
    assert failed.keys() == (refused if head == "fac" else set()), failed
    assert all("no space in which it could compare" in told for told in failed.values())
