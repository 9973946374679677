"""Fine-tuning, evaluation and probes as a user starts them, in small, on real .mp4, .wav and .png files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.data.media import click_at, write
from tests.limits import HANG
from tests.train.ranks import ROOT, run_commands
from train.core.data import Corpus
from train.finetuning.build import silence
from vatt.clip import InputConfig
from vatt.data import Clip, Source
from vatt.inference import VATT, Classifier
from vatt.presets import preset
from vatt.sample import build, build_pictures
from vatt.weights.folder import save_pretrained

TINY = ["data.workers=0", "run.log_every=1", "run.eval_every=0", "model.input.size=32", "--batch-size", "4"]
# How far the weights of two runs may be apart after a few steps of SGD (Adam would move weights whose gradient is 0 by
# the sign of its rounding): some roundings of a float32, as a share of the largest weight.
NOISE = 64 * 2.0**-24
VIDEO = [*TINY, "model.input.frames=8", "model.input.fps=2.5"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "clips"
    build(folder, train=30, val=6, workers=2, say=lambda text: None)
    build_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of small pretraining models, separate and modality-agnostic, on other inputs than the jobs'."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("vatt-tiny", "vatt-ma-tiny"):
        config = preset(name)
        config.text.vocab_size = config.unified.txt_vocab_size = 20
        for part in (config.video, config.waveform, config.text, config.unified):
            part.num_layers, part.d_model, part.d_kv, part.d_ff, part.num_heads = 1, 16, 8, 32, 2
        torch.manual_seed(0)
        save_pretrained(VATT(config), folder / name)
    return folder


def evaluation(out):
    return json.loads((out / "evaluation.json").read_text())


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


@pytest.mark.slow
def test_every_task_from_every_model_on_one_rank(sample, models, tmp_path):
    manifest, pictures = sample / "manifest.csv", sample / "pictures.csv"
    video = ["--task", "video", "--config", "sample", "--data", manifest, *VIDEO]
    audio = ["--task", "audio", "--config", "sample", "--data", manifest, *TINY]
    image = ["--task", "image", "--config", "sample", "--data", pictures, *TINY]
    tags = tmp_path / "tags.csv"  # several labels a row, the files as sound
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with tags.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "split"])
        writer.writerows([sample / row["video"], f"{row['size']}|{row['motion']}", row["split"]] for row in rows)
    several = ["--task", "audio", "--data", tags, *TINY, "targets.mixup=5", "model.labels=multi", "--label", "label"]
    out = {name: tmp_path / name for name in ("video", "ma", "again", "audio", "image", "multi", "next")}
    few = tmp_path / "few.csv"  # one clip is held out: no class has both clips with and without it
    few.write_text("\n".join(tags.read_text().splitlines()[:32]) + "\n")
    lone = ["--task", "audio", "--data", few, *TINY, "model.labels=multi", "--label", "label", "--steps", 2]
    tiny, ma = (["--init", models / name] for name in ("vatt-tiny", "vatt-ma-tiny"))
    scratch = ["--model", "vatt-tiny", "model.video.num_layers=1"]
    two, four = ["--steps", 2], ["--steps", 4, "run.save_every=2"]
    other = ["--label", "shape", "freeze_backbone=true", "model.video.random_patch_sampling=true"]
    check, half = ["--workers", 0, "--label"], ["--precision", "bf16"]
    probe = ["--task", "probe", "--model", out["ma"], "--data", manifest, *check, "size", "--clips", 2, "--steps", 50]
    probe += ["--features", tmp_path / "features", "--out"]
    words = tmp_path / "words.txt"
    words.write_text("<pad> <unk> a the red green blue ring square circle up down is it and".replace(" ", "\n"))
    search = ["--task", "retrieval", "--model", models / "vatt-ma-tiny", "--data", manifest, "--workers", 0]
    search += ["--clips", 2, "--out"]
    found = run_commands(
        tmp_path,
        [
            ("finetune", [*video, *tiny, *four, "--out", out["video"]]),
            ("finetune", [*video, *ma, *two, "--out", out["ma"], "optim.kind=adam"]),
            ("finetune", [*audio, *tiny, *two, "--out", out["audio"]]),
            ("finetune", [*image, *scratch, *two, "--out", out["image"], "data.augment_on=gpu"]),
            ("finetune", [*several, *tiny, *two, "--out", out["multi"], "--config", "sample"]),
            ("finetune", [*video, "--init", out["video"], *two, *other, "--out", out["next"]]),
            (
                "evaluate",
                ["--task", "video", "--model", out["video"], "--data", manifest, *check, "motion", "--clips", 2],
            ),
            ("evaluate", ["--task", "audio", "--model", out["multi"], "--data", tags, *half, *check, "label"]),
            ("evaluate", ["--task", "image", "--model", out["image"], "--data", pictures, *check, "shape"]),
            ("evaluate", ["--task", "video", "--model", out["video"], "--data", manifest, *check, "colour"]),
            ("evaluate", [*probe, tmp_path / "p.json"]),
            ("evaluate", [*probe, tmp_path / "p2.json"]),
            ("evaluate", [*probe, tmp_path / "p3.json", *half]),
            ("evaluate", [*search, tmp_path / "r.json", "--vocabulary", words]),
            ("evaluate", [*search, tmp_path / "r2.json", "--vocabulary", words, *half]),
            ("evaluate", [*search, tmp_path / "r3.json"]),
            ("finetune", [*lone, *tiny, "--config", "sample", "--out", tmp_path / "lone"]),
            ("finetune", ["--data", manifest, *VIDEO, *tiny, *two, "--out", tmp_path / "auto"]),
        ],
    )
    texts = [text for text, _ in found]
    assert [code for _, code in found] == [0] * 9 + [1, 0, 0, 0, 0, 0, 1, 0, 0], "\n".join(texts)
    assert "position tables resampled" in texts[0]
    assert "position tables resampled" not in texts[5]  # the same input
    assert "from scratch" in texts[3]

    model = Classifier.from_pretrained(out["video"])
    assert model.config.classes == sorted({row["motion"] for row in rows if row["split"] == "train"})
    table = evaluation(out["video"])["table"]
    assert (table["n"], table["skipped"]) == (6, 0)
    assert 0 <= table["top1"] <= table["top5"] <= 1
    assert sorted(losses(out["video"])) == [1, 2, 3, 4]
    assert set(evaluation(out["multi"])["table"]) >= {"mAP", "AUC", "d-prime", "left_out"}
    before, after = (load_file(out[name] / "model" / "model.safetensors") for name in ("video", "next"))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))  # frozen
    assert "2 windows x 3 crops" in texts[6]
    assert "6 clips" in texts[6]
    assert "'" in texts[9]
    assert "is no class" in texts[9]
    first, second = (json.loads((tmp_path / name).read_text())["rows"] for name in ("p.json", "p2.json"))
    assert first == second
    assert "as an earlier probe left them" in texts[11]
    assert [row["classifier"] for row in first] == ["low-rank", "svm"]
    assert "as an earlier probe left them" not in texts[12]  # of another precision
    for name, precision in (("r", "auto"), ("r2", "bf16")):
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert (content["n"], content["precision"]) == (6, precision)
        assert set(content["tables"]) == {"embeddings", "similarities"}
        assert all(set(table) == {"text_to_video", "audio_to_video", "chance"} for table in content["tables"].values())
    assert "--vocabulary" in texts[15]
    assert "mAP and AUC are not defined" in texts[16]
    assert (tmp_path / "lone" / "model" / "model.safetensors").is_file()
    recipe = json.loads((tmp_path / "auto" / "recipe.json").read_text())
    assert {row["setting"] for row in recipe["choices"]} >= {"model.input", "run.batch_size", "expected time"}
    assert recipe["labels"].startswith("5 classes of ") or recipe["labels"].startswith("6 classes of ")
    settings = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert (settings["optim"]["kind"], settings["run"]["batch_size"], settings["run"]["steps"]) == ("adam", 4, 2)
    assert "--config auto: chosen for these clips and this machine" in texts[17]
    assert "--config paper is 100,000 steps of 64 clips of its own input: about " in texts[17]


@pytest.mark.slow
def test_resume_and_ranks_give_the_same(sample, models, tmp_path):
    """Two ranks against one, ZeRO stages against each other, uneven shards in evaluation, and a resumed run."""
    data = [
        "--task",
        "video",
        "--config",
        "sample",
        "--data",
        sample / "manifest.csv",
        *VIDEO,
        "data.augment.enabled=false",
    ]
    data += ["--init", models / "vatt-tiny", "model.dropout=0", "optim.kind=sgd", "optim.lr=0.2"]
    data += ["optim.warmup_steps=0", "--steps", 4]
    runs = {zero: [*data, "--zero", zero, "--out", tmp_path / f"two-{zero}"] for zero in (0, 2, 3)}
    bad = sample.parent / "bad.csv"  # five clips to evaluate, one of which cannot be read
    with (sample / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"][:5]
    (sample / "broken.mp4").write_bytes(b"not a film")
    rows[2]["video"] = "broken.mp4"
    with bad.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "video": sample / row["video"]} for row in rows)
    check = ["--task", "video", "--model", tmp_path / "two-0", "--data", bad, "--label", "motion", "--workers", 0]
    check += ["--clips", 1, "--crops", 1, "--out"]
    jobs = [("finetune", words) for words in runs.values()]
    pair = sample.parent / "pair.csv"  # of which one rank has nothing but the one that cannot be read
    pair.write_text(f"video,caption,split\n{sample / rows[0]['video']},a red ring,val\n{sample / 'broken.mp4'},a,val\n")
    words = tmp_path / "words.txt"
    words.write_text("<pad>\n<unk>\na\nred\nring\n")
    search = ["--task", "retrieval", "--model", models / "vatt-tiny", "--data", pair, "--vocabulary", words]
    search += ["--workers", 0, "--out", tmp_path / "new" / "folder" / "r.json"]
    two = run_commands(tmp_path, [*jobs, ("evaluate", [*check, tmp_path / "2.json"]), ("evaluate", search)], 2)
    wet = [*data, "model.dropout=0.3", "run.eval_every=2", "evaluation.clips=1", "evaluation.crops=1"]
    one = run_commands(
        tmp_path,
        [
            ("finetune", [*data, "--out", tmp_path / "one", "run.save_every=2", "run.keep=2"]),
            ("finetune", ["--resume", "--out", tmp_path / "half"]),
            ("evaluate", [*check, tmp_path / "1.json"]),
            ("evaluate", [*check, tmp_path / "1.json"]),
            ("finetune", [*wet, "--out", tmp_path / "wet", "run.save_every=2", "run.keep=2"]),
        ],
    )
    assert [code for _, code in two] == [0, 0, 0, 0, 0], two[-1][0]
    assert [code for _, code in one] == [0, 1, 0, 0, 0], one
    found = json.loads((tmp_path / "new" / "folder" / "r.json").read_text())
    assert (found["n"], found["skipped"], found["ranks"]) == (1, 1, 2)
    assert len((tmp_path / "1.skipped.jsonl").read_text().splitlines()) == 1  # not one more with each evaluation
    tables = [json.loads((tmp_path / name).read_text())["table"] for name in ("1.json", "2.json")]
    assert all(table.pop("clips_per_s") > 0 for table in tables)
    assert tables[0] == tables[1]
    assert (tables[0]["n"], tables[0]["skipped"]) == (4, 1)
    (record,) = map(json.loads, (tmp_path / "2.skipped.jsonl").read_text().splitlines())
    assert record["file"].endswith("broken.mp4")

    whole = load_file(tmp_path / "one" / "model" / "model.safetensors")
    begun = load_file(models / "vatt-tiny" / "model.safetensors")
    moved = [
        (whole[f"backbone.{name}"] - begun[f"video.{name}"]).abs().max() for name in ("tokens.weight", "tokens.bias")
    ]
    noise = NOISE * max(value.abs().max().item() for value in whole.values())
    assert min(moved) > 1000 * noise
    for zero in runs:
        state = load_file(tmp_path / f"two-{zero}" / "model" / "model.safetensors")
        for name, value in state.items():
            torch.testing.assert_close(value, whole[name], atol=noise, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert evaluation(tmp_path / "two-2")["table"] == evaluation(tmp_path / "one")["table"]

    shutil.copytree(tmp_path / "one", tmp_path / "half")  # as if it had been killed after step 3
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000004")
    shutil.copytree(tmp_path / "wet", tmp_path / "wet-half")
    shutil.rmtree(tmp_path / "wet-half" / "checkpoints" / "step-00000004")
    other = tmp_path / "classes.txt"
    classes = json.loads((tmp_path / "one" / "config.json").read_text())["model"]["classes"]
    other.write_text("\n".join(reversed(classes)))
    again = ["--resume", "--out", tmp_path / "half"]
    (refused, code), (switched, code2), (text, status), (_, status2) = run_commands(
        tmp_path,
        [
            ("finetune", [*again, "--allow-changes", f"classes={other}"]),
            ("finetune", [*again, "--allow-changes", "optim.kind=adam"]),
            ("finetune", again),
            ("finetune", ["--resume", "--out", tmp_path / "wet-half"]),
        ],
    )
    assert (code, code2, status2) == (1, 1, 0)
    assert "is of another optimizer" in switched
    assert losses(tmp_path / "wet-half") == losses(tmp_path / "wet")  # dropout goes on as if nothing had happened
    assert "are not those that the run began with" in refused
    assert status == 0, text
    assert "resumed from step 2" in text
    assert losses(tmp_path / "half") == losses(tmp_path / "one")
    again = load_file(tmp_path / "half" / "model" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_the_message_of_a_bad_label_comes_before_anything_is_decoded(sample, models, tmp_path):
    manifest = sample / "typo.csv"
    manifest.write_text((sample / "manifest.csv").read_text().replace("bounce,val", "bouncy,val", 1))
    words = [
        "--task",
        "video",
        "--config",
        "sample",
        "--data",
        manifest,
        "--init",
        models / "vatt-tiny",
        "--label",
        "label",
    ]
    command = [sys.executable, "train/finetune.py", *map(str, words), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")  # DeepSpeed says nothing before it
    assert "typo.csv, held out" in done.stderr
    assert "'bouncy' is no class; did you mean 'bounce'" in done.stderr


def test_silent_clips_are_counted(tmp_path):
    sounds = {"silent": np.zeros(16000, np.float32), "click": click_at(1.0, 2.0, 8000)}
    clips = [
        Clip(write(tmp_path / f"{name}.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le"), kind="audio")
        for name, sound in sounds.items()
    ]
    spec = InputConfig(frames=16, fps=10, sample_rate=8000)
    (note,) = silence(Corpus([Source("a", clips)]), spec)
    assert note.startswith("1 of 2 clips that were listened to are silence")
    assert silence(Corpus([Source("a", clips[1:])]), spec) == []
