"""Every example runs, on a tiny model and a few clips of the sample, and says so where it cannot."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.library_models import save_classifier, save_model
from vatt.sample import build

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model, classifier, and a sample of 8 training and 2 held-out clips: all labels must occur."""
    folder = tmp_path_factory.mktemp("examples")
    save_model(folder / "model")
    save_classifier(folder / "classifier")
    build(folder / "clips", seed=0, train=8, val=2, workers=1, say=lambda text: None)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a script as the main program, in the folder of the fixture, and gives its status and what it printed."""

    def go(name, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return go


@pytest.fixture
def good(run):
    def go(name, *arguments):
        windows = () if name == "search_videos" else ("--windows", "1")  # an index has all of a file
        code, out, err = run(name, *arguments, "--model", "model", *windows, "--workers", "0")
        assert code == 0, err
        return out.splitlines()

    return go


def test_search_videos(good, folder):
    lines = good("search_videos", "a red star", "--videos", "clips/val", "--index", "index", "--top", "1")
    assert lines[0] == "a red star"
    assert lines[1].endswith(".mp4")
    assert len(lines) == 2
    assert (folder / "index" / "index.json").is_file()
    assert good("search_videos", "--videos", "clips/val")[0] == "a red circle"
    assert (folder / "runs" / "index-val-model").is_dir()


def test_a_search_for_words_that_the_model_does_not_know_is_refused(run):
    options = ("--videos", "clips/val", "--model", "model", "--workers", "0")
    code, out, err = run("search_videos", "xylophone", *options)
    assert (code, out) == (1, "xylophone\n")
    assert err.strip().endswith("error: text: 'xylophone' holds no word that the model knows")


def test_similar_sounds(good):
    lines = good("similar_sounds", "clips/val/0000.mp4", "--videos", "clips/val")
    assert sorted(line.split()[-1] for line in lines[1:]) == ["clips/val/0000.mp4", "clips/val/0001.mp4"]
    assert float(lines[1].split()[0]) >= float(lines[2].split()[0])


def test_embed_dataset(good):
    lines = good("embed_dataset", "--data", "clips/manifest.csv", "--label", "size")
    assert lines[0].startswith("8 clips of ")
    assert "2 to test" in lines[0]
    assert all(line.endswith("% right") for line in lines[1:])
    assert len(lines) == 3


def test_classify_video(run):
    files = ["clips/val/0000.mp4", "gone.mp4", "clips/val/0001.mp4"]
    code, out, err = run("classify_video", *files, "--model", "classifier", "--top", "2", "--clips", "1")
    assert code == 1  # since one could not be read
    assert err.strip() == "error: gone.mp4: video: no such file"
    first, second = out.splitlines()
    assert first.startswith("clips/val/0000.mp4: ")
    assert first.count("%") == 2
    assert second.startswith("clips/val/0001.mp4: ")


def test_a_wrong_model_is_one_line(run):
    code, _, err = run("classify_video", "clips/val/0000.mp4", "--model", "model")
    assert code == 1
    assert err.strip().startswith("error: model: holds a VATT, which has no classes; fine-tune it first")


@pytest.mark.slow
def test_each_example_is_short_and_described():
    readme = (ROOT / "examples" / "README.md").read_text()
    assert len(EXAMPLES) == 5
    command = [sys.executable, str(ROOT / "examples" / "similar_sounds.py"), "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Finds the videos that go with a sound" in done.stdout
    for path in EXAMPLES:
        text = path.read_text()
        assert len(text.splitlines()) < 90, path
        assert "description=__doc__" in text  # --help tells what it does
        assert path.name in readme
