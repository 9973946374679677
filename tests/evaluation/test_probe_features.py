"""Features of real small videos: shares of several ranks, the file that keeps them, and the command that reads it."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
import torch.distributed as dist

from train.core.data import SAMPLE
from train.core.ranks import RankContext
from train.evaluation.cli import TASKS, parse
from train.evaluation.task import use_sample
from vatt.clip import InputConfig
from vatt.data import DataConfig, Views, read_clips
from vatt.evaluation.probe import Features, ProbeError, extract
from vatt.inference import VATT
from vatt.models import Classifier
from vatt.models.config import ClassifierConfig, VideoConfig
from vatt.presets import preset
from vatt.sample import build
from vatt.weights.folder import save_pretrained

TINY = dict(num_layers=1, d_model=16, d_kv=8, d_ff=32, num_heads=2)
READ = DataConfig(workers=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "clips"
    return build(folder, train=6, val=3, workers=1, say=lambda text: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = preset("vatt-tiny")
    config.input = InputConfig(frames=4, fps=2.5, size=32, words=4, candidates=1)
    config.text.vocab_size = 20
    for part in (config.video, config.waveform, config.text):
        for name, value in TINY.items():
            setattr(part, name, value)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(VATT(config), folder)
    return folder


@pytest.fixture
def alone():
    """This process is the only rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield RankContext(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


def probe(model, data, tmp_path, context, *more):
    """What the command writes."""
    out = tmp_path / "probe.json"
    words = ["--task", "probe", "--model", model, "--data", data, "--features", tmp_path / "features", "--out", out]
    words += ["--label", "size", "--clips", 1, "--workers", 0, "--classifier", "low-rank", "--steps", 20, *more]
    options = parse([str(word) for word in words])
    assert TASKS[options.task].run(options, context) == 0
    return json.loads(out.read_text())


def test_uneven_shares_give_the_features_of_one_rank_in_order(clips, model):
    net, found = VATT.from_pretrained(model), read_clips(clips).clips[:5]
    for modality, views, count in (("video", Views(2, 2), 4), ("audio", Views(2, 2), 2)):
        whole = extract(net, found, modality, views, READ, batch_size=2)
        shares = [extract(net, found, modality, views, READ, numbers=range(rank, 5, 3)) for rank in (2, 0, 1)]
        joined = Features.join(shares)
        assert whole.numbers == joined.numbers == [0, 1, 2, 3, 4]
        assert whole.x_NVD.shape == (5, count, 16)
        torch.testing.assert_close(joined.x_NVD, whole.x_NVD)
        windows = views.read(found[1], modality, net.config.input, 30.0)
        with torch.no_grad():
            pooled = net(**{modality: windows})[f"{modality}/features_pooled"]
        torch.testing.assert_close(whole.x_NVD[1], pooled)


def test_a_classifier_of_the_other_modality_is_refused(clips):
    config = ClassifierConfig(num_classes=2, classes=["a", "b"], video=VideoConfig(**TINY))
    with pytest.raises(ProbeError, match="the model reads video, not audio"):
        extract(Classifier.from_config(config), read_clips(clips).clips, "audio", Views(1, 1), READ)


def test_features_that_are_not_finite_name_the_clip(clips, model):
    net, found = VATT.from_pretrained(model), read_clips(clips).clips[:1]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(float("inf"))
    with pytest.raises(ProbeError, match=r"0000.mp4: the model gives features that are not finite"):
        extract(net, found, "video", Views(1, 1), READ)


def test_the_command_keeps_features_and_tries_again_what_it_could_not_read(clips, model, tmp_path, alone, capsys):
    data = tmp_path / "clips"
    shutil.copytree(clips.parent, data)
    victim = data / "train" / "0004.mp4"
    good = victim.read_bytes()
    victim.write_bytes(b"not a film")
    os.utime(victim, (1, 1))
    first = probe(model, data / "manifest.csv", tmp_path, alone)
    (row,) = first["rows"]
    assert row["skipped"] == 1
    assert row["n_train"] + row["n_test"] == 8
    assert f"warning: {victim}: " in capsys.readouterr().out
    (kept,) = (tmp_path / "features").iterdir()
    assert kept.stat().st_mode & 0o777 == (tmp_path / "probe.json").stat().st_mode & 0o777

    victim.write_bytes(good)
    os.utime(victim, (1, 1))  # as if nothing had changed: what failed was not the file
    second = probe(model, data / "manifest.csv", tmp_path, alone)
    said = capsys.readouterr().out
    assert "as an earlier probe left them" in said
    assert "features: 1 clips" in said
    assert second["rows"][0]["skipped"] == 0
    again = probe(model, data / "manifest.csv", tmp_path, alone)
    assert "features: 1 clips" not in capsys.readouterr().out
    assert again["rows"] == second["rows"]
    fresh = probe(model, data / "manifest.csv", tmp_path, alone, "--features", tmp_path / "other")
    assert fresh["rows"] == second["rows"]
    mended, whole = (Features.load(next(iter((tmp_path / name).iterdir()))) for name in ("features", "other"))
    assert mended.numbers == whole.numbers == list(range(9))
    torch.testing.assert_close(mended.x_NVD, whole.x_NVD)


def test_other_weights_views_or_a_random_start_are_other_features(clips, model, tmp_path, alone):
    found = []
    for number, more in enumerate([(), ("--clips", 2), ("--random-init", 1), ("--modality", "audio")]):
        content = probe(model, clips, tmp_path / str(number), alone, *more)
        assert content["random_init"] == (1 if "--random-init" in more else None)
        (kept,) = (tmp_path / str(number) / "features").iterdir()
        found.append((kept.name, Features.load(kept).x_NVD))
    assert len({name for name, _ in found}) == 4
    first = found[0][1]
    assert not any(torch.equal(x[:, 0], first[:, 0]) for _, x in found[1:])
    probe(model, clips, tmp_path / "4", alone, "--random-init", 0)  # the seed that made the model of this test
    (kept,) = (tmp_path / "4" / "features").iterdir()
    assert torch.equal(Features.load(kept).x_NVD, first)


def test_what_cannot_work_is_said_before_a_clip_is_decoded(clips, model, tmp_path, alone, capsys):
    with pytest.raises(ProbeError, match="dev has no clip to test on; a probe reads"):
        probe(model, clips, tmp_path, alone, "--split", "dev")
    with pytest.raises(SystemExit):
        probe(model, clips, tmp_path, alone, "--steps", 0)
    assert "--steps" in capsys.readouterr().err
    lines = clips.read_text().splitlines()
    column = lines[0].split(",").index("split")
    one = next(line for line in lines[1:] if line.split(",")[column] == "val").split(",")
    one[lines[0].split(",").index("size")] = "huge"
    other = clips.with_name("odd.csv")
    other.write_text("\n".join([*lines, ",".join(one)]) + "\n")
    with pytest.raises(ProbeError, match="column size: no training clip of the class huge"):
        probe(model, other, tmp_path, alone)
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("arguments", "file", "label"),
    [
        (["--task", "video"], "manifest.csv", "motion"),
        (["--task", "video", "--label", "colour"], "manifest.csv", "colour"),
        (["--task", "image"], "pictures.csv", "shape"),
        (["--task", "probe", "--modality", "audio"], "manifest.csv", "shape"),
        (["--task", "retrieval"], "manifest.csv", None),
    ],
)
def test_no_data_is_the_sample(arguments, file, label, monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr("train.core.data.build", lambda folder, seed, say: built.append(folder))
    monkeypatch.setattr("train.core.data.build_pictures", built.append)
    monkeypatch.setattr("train.core.data.wait_for_all", lambda: None)
    options = parse([*arguments, "--model", str(tmp_path)])
    use_sample(options, RankContext(0, 1, torch.device("cpu")))
    assert (options.data, options.label) == (str(SAMPLE / file), label)
    assert built == [SAMPLE] * (2 if file == "pictures.csv" else 1)
