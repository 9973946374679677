"""Pretraining as a user starts it, in small: real .mp4 files, the DeepSpeed launcher, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.data.media import write
from tests.train.pretraining import (
    CONSTANT,
    NOISE,
    PARTS,
    SGD,
    SMALL,
    copy_with_bad_files,
    losses,
    records,
    refused,
    run,
    words_of,
)
from tests.train.ranks import run_commands


def bare_folders(sample, folder):
    """The sample as a stranger's folder, without manifest; a folder of mute films; and one of films alone."""
    for name in ("bare", "mute", "nothing"):
        (folder / name).mkdir()
    for video in sorted(sample.parent.rglob("*.mp4")):
        for path in (video, video.with_suffix(".srt")):
            shutil.copy(path, folder / "bare" / f"{video.parent.name}-{path.name}")
    for number in range(8):
        frames = np.full((35, 48, 64, 3), 20 * number, np.uint8)
        write(folder / "mute" / f"{number}.mp4", frames)
        (folder / "mute" / f"{number}.txt").write_text(f"number {number} moves to the left\n")
    shutil.copy(folder / "mute" / "0.mp4", folder / "nothing")


DIVERGES = ["optim.kind=sgd", "optim.lr=100", "optim.final_lr=100", "optim.warmup_steps=0", "optim.weight_decay=10"]


@pytest.fixture(scope="module")
def alone(sample, tmp_path_factory):
    """Command lines on one rank, one after the other in one process: (folder, name -> (output, exit status))."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "wrong.csv").write_text("vidoe\na.mp4\n")
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("x")
    (folder / "own.json").write_text('{"zero_optimization": {"stag": 0}}')
    bad = copy_with_bad_files(sample, folder / "clips", 4)
    bare_folders(sample, folder)

    def train(name, *extra, data=sample):
        return words_of(data, folder / name, *extra)

    jobs = {
        "one": train("one", "--steps", 3, *SGD),
        "no workers": train("no workers", "--steps", 3, *SGD, "data.workers=0"),
        "planes": train("planes", "--steps", 3, *SGD, "--zero", 3, "data.augment_on=gpu", "data.workers=2"),
        "windows": train("windows", "--steps", 2, *SGD, "data.windows_per_open=3"),
        "offloaded parts": train(
            "offloaded parts", "--zero", 1, "engine.offload_optimizer=true", "engine.contrastive_parts=0"
        ),
        "parts": train("parts", "--steps", 3, *SGD, "engine.contrastive_parts=4", "data.prefetch=1"),
        "parts of two": train("parts of two", "--steps", 4, *CONSTANT, *PARTS),
        "parts, half": train("parts, half", "--steps", 2, *CONSTANT, *PARTS),
        "parts, rest": ["--out", folder / "parts, half", "--resume", "--steps", 4],
        "parts, auto": train("parts, auto", "--steps", 1, "engine.contrastive_parts=0"),
        "accumulated": train("accumulated", "--steps", 1, "engine.gradient_accumulation=2"),
        "bad media": train("bad media", "--steps", 3, "data.max_bad_share=0.9", data=bad),
        "diverged": train("diverged", "--steps", 20, *DIVERGES, "run.max_skipped_steps=3"),
        "diverged too": train("diverged too", "--steps", 3, *DIVERGES, "run.max_skipped_steps=2"),
        "deepspeed": train("deepspeed", "--deepspeed-config", folder / "own.json"),
        "kernels": train("kernels", "engine.kernels=cuda"),
        "wrong": train("wrong", data=folder / "wrong.csv"),
        "empty": train("no run", data=folder / "empty"),
        "below a file": train("file/run"),
        "proc": words_of(sample, "/proc/run"),
        "full": train("full"),
        "no run": ["--resume", "--out", folder / "full"],
        "batch": train("batch", "run.batch_size=7", "engine.gradient_accumulation=2"),
        "model": train("model", "model.loss.aud_txt_weight=1"),
        "vocabulary": train("vocabulary", "data.vocabulary=absent.txt"),
        "auto": ["--data", folder / "bare", "--out", folder / "auto", *SMALL, "--steps", 3],
        "auto again": ["--out", folder / "auto", "--resume", "--steps", 4],
        "fewer steps": ["--out", folder / "auto", "--resume", "--steps", 2],
        "another batch": ["--out", folder / "auto", "--resume", "--batch-size", 4, "optim.lr=1", "data.workers=0"],
        "other clips": ["--out", folder / "auto", "--resume", "--data", folder / "mute"],
        "auto, auto": ["--data", folder / "bare", "--out", folder / "auto", *SMALL, "--steps", 4, "--resume", "auto"],
        "diverged again": train("diverged", "--steps", 1, "--resume", "auto"),
        "diverged, resumed": [
            "--out",
            folder / "diverged too",
            "--resume",
            "optim.lr=1e-3",
            "--allow-changes",
            "--steps",
            1,
        ],
        "mute": ["--data", folder / "mute", "--out", folder / "mute run", *SMALL[:-1], "--steps", 2],
        "no pair": ["--data", folder / "nothing", "--out", folder / "no pair"],
        "no pair, paper": train("no pair 2", data=folder / "nothing"),
    }
    found = run_commands(folder, [("pretrain", words) for words in jobs.values()])
    return folder, dict(zip(jobs, found, strict=True))


REFUSED = {
    "deepspeed": ["{folder}/own.json", "stag"],
    "kernels": ["engine.kernels: 'cuda' is not one of auto, measured, unmeasured, torch, triton"],
    "diverged": ["3 steps in a row gave a loss or gradient", "optim.lr"],
    "fewer steps": ["run.steps: 2, but the newest checkpoint is of step 4"],
    "another batch": ["optim.lr: 0.001 then, 1.0 now; run.batch_size: 8 then, 4 now", "--allow-changes"],
    "other clips": ["{folder}/mute: 28 clips to train on then (digest ", "), 8 now ("],
    "wrong": ["{folder}/wrong.csv", "vidoe", "did you mean 'video'"],
    "empty": ["{folder}/empty", "no video file"],
    "below a file": ["--out {folder}/file/run", "cannot be written"],
    "proc": ["--out /proc/run", "cannot be written"],
    "full": ["holds files, and no run; choose an empty folder"],
    "no run": ["config.json"],
    "batch": ["run.batch_size"],
    "windows": ["data.windows_per_open: 3 windows of a clip do not divide the 8 clips"],
    "offloaded parts": ["engine.contrastive_parts: cannot go with engine.offload_optimizer"],
    "model": ["loss.aud_txt_weight"],
    "vocabulary": ["absent.txt"],
    "no pair": ["{folder}/nothing: no clip has captions, and none of the 1 that were looked at has sound"],
    "no pair, paper": ["{folder}/nothing: no clip has captions"],
}


@pytest.mark.slow
def test_one_command_starts_goes_on_and_starts_a_run_without_a_checkpoint_again(alone):
    folder, found = alone
    text, code = found["auto, auto"]
    assert (code, "resumed from step 4" in text) == (0, True)
    text, code = found["diverged again"]
    assert (code, "training from step 1 on" in text) == (0, True)
    assert list(losses(folder / "diverged")) == [1]
    text, code = found["diverged, resumed"]
    assert (code, "no checkpoint was written yet; the run begins again" in text) == (0, True)
    assert "warning: goes on with optim.lr: 100.0 then, 0.001 now" in text
    assert json.loads((folder / "diverged too" / "config.json").read_text())["optim"]["lr"] == 1e-3
    assert not list(folder.glob("*/run.lock"))


@pytest.mark.slow
def test_settings_are_written_once_and_those_of_before_stay_beside_later_ones(alone):
    folder, _ = alone
    before = json.loads((folder / "auto" / "config-until-00000003.json").read_text())
    assert (before["run"]["steps"], json.loads((folder / "auto" / "config.json").read_text())["run"]["steps"]) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_user_can_mend_is_told_in_a_line(alone, name):
    folder, found = alone
    text, code = found[name]
    assert code == 1
    refused(text, *(words.format(folder=folder) for words in REFUSED[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernels", "windows", "offloaded parts"])
def test_what_cannot_be_is_refused_before_a_folder_is_made(alone, name):
    assert not (alone[0] / name).exists()


@pytest.mark.slow
def test_a_recipe_is_chosen_told_and_kept(alone):
    folder, found = alone
    text, code = found["auto"]
    assert code == 0, text
    assert "data: 28 clips, 4 s each, 112 x 112 pixels, captions 100%" in text
    config = json.loads((folder / "auto" / "config.json").read_text())
    assert config["model"]["name"] == "vatt-tiny"
    assert config["model"]["text"]["trainable_embeddings"]
    assert config["run"]["batch_size"] == 8  # by hand
    assert config["data"]["eval_share"] == 0
    told = json.loads((folder / "auto" / "recipe.json").read_text())
    for row in told["choices"]:
        assert any(line.startswith(f"{row['setting']} ") and row["value"] in line for line in text.splitlines())
    reasons = {row["setting"]: row["reason"] for row in told["choices"]}
    assert reasons["run.steps"] == "set by you"
    assert "expected time" in reasons
    assert "clips of vatt-base: about" in text  # the paper's recipe here
    report = (folder / "auto" / "report.html").read_text()
    assert "set by you" in report


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_recipe(alone):
    folder, found = alone
    text, code = found["auto again"]
    assert code == 0, text
    assert "data: 28 clips" in text
    assert "(when the run began)" in text
    assert "expected time" not in text
    assert json.loads((folder / "auto" / "config.json").read_text())["run"]["steps"] == 4
    assert max(losses(folder / "auto")) == 4


@pytest.mark.slow
def test_films_without_sound_train_with_captions_alone(alone):
    folder, found = alone
    text, code = found["mute"]
    assert code == 0, text
    config = json.loads((folder / "mute run" / "config.json").read_text())
    assert config["model"]["loss"]["vid_aud_weight"] == 0
    assert not config["data"]["augment"]["flip"]
    assert "100.0% of the captions tell left from right" in text
    assert all(line["loss"] == pytest.approx(line["vidtxt_loss"], rel=1e-5) for line in records(folder / "mute run"))


@pytest.mark.slow
def test_every_run_tells_what_its_data_are_like(alone):
    text = alone[1]["one"][0]
    assert "data: 28 clips, 4 s each, 112 x 112 pixels, captions 100% (5 a clip" in text
    assert "warning: data.augment.hue" in text  # the paper's recipe; the sample's captions name colours
    assert "--config auto: chosen" not in text


@pytest.mark.slow
def test_bad_media_are_skipped_listed_and_shown(alone):
    folder, found = alone
    text, code = found["bad media"]
    assert code == 0, text
    listed = [json.loads(line) for line in (folder / "bad media" / "skipped.jsonl").read_text().splitlines()]
    assert {(record["field"]) for record in listed} == {"container", "video"}
    assert len(listed) == 4
    assert "4 skipped" in text
    assert all(record["file"] and record["reason"] for record in listed)


@pytest.mark.slow
def test_losses_do_not_depend_on_reading_processes(alone):
    folder, found = alone
    assert found["no workers"][1] == 0
    assert losses(folder / "no workers") == losses(folder / "one")
    assert "bound by " in found["no workers"][0]


@pytest.mark.slow
def test_a_batch_in_parts_has_the_losses_of_the_whole(alone):
    folder, found = alone
    assert found["parts"][1] == 0, found["parts"][0]
    one, parts = losses(folder / "one"), losses(folder / "parts")
    assert one.keys() == parts.keys()
    for step in one:
        assert parts[step] == pytest.approx(one[step], rel=NOISE)
    settings = json.loads((folder / "parts" / "deepspeed.json").read_text())
    assert (settings["train_micro_batch_size_per_gpu"], settings["gradient_accumulation_steps"]) == (2, 4)


@pytest.mark.slow
def test_a_run_in_parts_resumes_bit_equal_with_dropout(alone):
    folder, found = alone
    assert "resumed from step 2" in found["parts, rest"][0]
    assert losses(folder / "parts, half") == losses(folder / "parts of two")
    one, two = (load_file(folder / name / "model" / "model.safetensors") for name in ("parts of two", "parts, half"))
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.slow
def test_parts_are_found_from_memory_told_and_kept_and_another_loss_is_named(alone):
    folder, found = alone
    assert "engine.contrastive_parts: 1, the batch of 8 clips at once: " in found["parts, auto"][0]
    assert json.loads((folder / "parts, auto" / "config.json").read_text())["engine"]["contrastive_parts"] == 1
    text = found["accumulated"][0]
    assert text.count("warning: engine.gradient_accumulation=2 compares a clip with those of its part alone") == 1
    assert "engine.contrastive_parts" not in found["one"][0]


@pytest.mark.slow
def test_crop_and_colour_in_front_of_the_step(alone):
    """As on a GPU. Pixels differ from FFmpeg's by rounding and clipping, and so do the losses, a little."""
    folder, found = alone
    assert found["planes"][1] == 0, found["planes"][0]
    one, planes = losses(folder / "one"), losses(folder / "planes")
    assert one.keys() == planes.keys()
    assert one != planes
    for step in one:
        assert planes[step] == pytest.approx(one[step], rel=0.1)
    assert "frames_to_patches" in (folder / "planes" / "environment.json").read_text()


@pytest.mark.slow
def test_two_ranks_under_the_launcher_agree_with_one(sample, alone, tmp_path):
    """ZeRO 3; tests/train/test_engine.py has all stages."""
    text = run(*words_of(sample, tmp_path / "two", "--steps", 3, *SGD, "--zero", 3), ranks=2)
    assert text.count("step 3/3") == 1  # rank 0 alone speaks
    one, two = losses(alone[0] / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=NOISE)


@pytest.fixture(scope="module")
def together(sample, tmp_path_factory):
    """Command lines on two ranks, one after the other in the same processes: a folder, and of each (text, status)."""
    folder = tmp_path_factory.mktemp("together")
    manifest = copy_with_bad_files(sample, folder / "clips", 12)
    bare_folders(sample, folder)
    jobs = [
        ["--data", folder / "bare", "--out", folder / "run", *SMALL[:-1], "--steps", 1],
        words_of(manifest, folder / "bad", "--steps", 50),
    ]
    return folder, run_commands(folder, [("pretrain", words) for words in jobs], ranks=2)


@pytest.mark.slow
def test_two_ranks_choose_alike_and_survey_once(together):
    folder, ((text, code), _) = together
    assert code == 0, text
    assert text.count("data: 28 clips") == 1
    assert text.count("expected time") == 1
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["run"]["batch_size"] == 8  # nearest to 32 x sqrt(28 / 768) clips, in twos


@pytest.mark.slow
def test_too_many_bad_media_stop_both_ranks(together):
    _, (_, (text, code)) = together
    assert code == 1
    refused(text, "clips could not be read, more than data.max_bad_share = 0.1 allows")


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def without_checksums(checkpoint):
    """Makes it one of the time before there were any."""
    for file in checkpoint.glob("*.safetensors"):
        save_file(load_file(file), file)
    state = json.loads((checkpoint / "state.json").read_text())
    state = {name: value for name, value in state.items() if name not in ("sha256", "files")}
    (checkpoint / "state.json").write_text(json.dumps({**state, "format": 1}))


@pytest.mark.slow
def test_a_run_leaves_everything_behind_and_resumes_bit_equal(sample, tmp_path):
    out = tmp_path / "run"
    text = run(*words_of(sample, out, "--steps", 6, "run.save_every=3", "run.log_every=2"))  # step 3: amid a record
    assert "text -> video" in text
    assert "x" in text
    for name in ("config.json", "deepspeed.json", "retrieval.json", "tokenizer.json", "report.html"):
        assert (out / name).stat().st_size > 0
    assert list(out.glob("*.png"))
    assert {p.name for p in (out / "model").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert sorted(losses(out)) == [1, 2, 4, 6]
    assert records(out, "eval")[-1]["text_to_video"]["n"] == 12
    whole, weights = losses(out), load_file(out / "model" / "model.safetensors")
    newest, before = (out / "checkpoints" / f"step-0000000{step}" for step in (6, 3))
    flip_a_bit(newest / "optimizer.safetensors")
    without_checksums(before)
    shutil.rmtree(out / "model")
    text = run("--out", out, "--resume")
    assert f"{newest / 'optimizer.safetensors'}: is damaged: its content differs from its checksum; going back" in text
    assert "step 3 was saved by an earlier version, without checksums" in text
    assert "resumed from step 3" in text
    assert {path.name for path in newest.parent.iterdir()} == {before.name, newest.name, f"damaged-{newest.name}"}
    assert losses(out) == whole
    assert "(chance 2.77)" in text  # log(2 x 8)
    again = load_file(out / "model" / "model.safetensors")
    assert all(weights[name].equal(again[name]) for name in weights)
