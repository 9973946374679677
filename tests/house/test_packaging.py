"""A wheel (through the sdist), an editable install and a bare checkout import ``vatt.kernels`` and find the jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import site, sys
sys.path.append(sys.argv[1])  # the libraries, but not the editable install of the project that may be among them
for folder in sys.argv[2:]:
    sys.path.insert(0, folder)
    site.addsitedir(folder)
import vatt, vatt.kernels, vatt.models, vatt.data
from vatt.cli.jobs import program
print(program("pretrain"))
print(vatt.kernels.__file__)
for name in ("kernels", "train", "bench", "tests"):
    try:
        came = __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"a top-level package {name} came along: {came.__file__}")
"""
SOURCES = {"vatt": "vatt", "kernels": "vatt/kernels", "train": "vatt/jobs/train"}  # where a wheel has them


def run(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it would hide the install
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path):
    """The files of the working tree that a clone would have, with the symlink as a symlink."""
    copy = tmp_path / "a folder" / "vatt"  # the likeliest name of a clone, and a space in its path
    copy.mkdir(parents=True)
    for name in ("kernels", "train", "vatt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


def probe(*folders: Path, cwd: Path) -> tuple[Path, Path]:
    """Where ``vatt.kernels`` and the program of ``vatt pretrain`` are found."""
    libraries = sysconfig.get_path("purelib")
    program, kernels = run(sys.executable, "-S", "-c", PROBE, libraries, *folders, cwd=cwd).strip().splitlines()[-2:]
    return Path(kernels), Path(program)


def files(folder: Path) -> set[str]:
    """What is in a folder and not made by running it; without what a symlink shows once more."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    links = {path.relative_to(folder) for path in folder.iterdir() if path.is_symlink()}
    return {
        path.as_posix()
        for path in found
        if "__pycache__" not in path.parts and not any(path.is_relative_to(link) for link in links)
    }


@pytest.mark.slow
def test_bare_checkout(checkout, tmp_path):
    # the checkout itself has a kernels/ folder on the path, so the probe for a stray top-level package is left out
    out = run(sys.executable, "-c", "import vatt.kernels; print(vatt.kernels.__file__)", cwd=checkout)
    assert Path(out.strip()) == checkout / "vatt" / "kernels" / "__init__.py"


@pytest.mark.slow
def test_wheel_made_from_the_sdist(checkout, tmp_path):
    build = "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
    sdist = run(sys.executable, "-c", build, "sdist", tmp_path / "dist", cwd=checkout).strip().splitlines()[-1]
    with tarfile.open(tmp_path / "dist" / sdist) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = tmp_path / sdist.removesuffix(".tar.gz")
    kernels = unpacked / "vatt" / "kernels"  # real files, so that an unpacked sdist runs as a checkout does
    assert not kernels.is_symlink()
    assert files(kernels) == files(checkout / "kernels")
    wheel = run(sys.executable, "-c", build, "wheel", tmp_path / "dist", cwd=unpacked).strip().splitlines()[-1]
    site = tmp_path / "site"
    shutil.unpack_archive(tmp_path / "dist" / wheel, site, "zip")
    jobs = site / "vatt" / "jobs" / "train"
    assert probe(site, cwd=tmp_path) == (site / "vatt" / "kernels" / "__init__.py", jobs / "pretrain.py")
    (info,) = site.glob("*.dist-info")
    assert sorted(p.name for p in site.iterdir() if p != info) == ["vatt"]
    assert not [path for path in site.rglob("*") if path.is_symlink()]
    shipped = files(site / "vatt")
    for folder, place in SOURCES.items():
        there = {f"{place}/{name}".removeprefix("vatt/") for name in files(checkout / folder)}
        assert there <= shipped, "of the sources, but not in the wheel"
        shipped -= there
    assert shipped == set(), "in the wheel, but not of the sources"
    assert "vatt = vatt.__main__:main" in (info / "entry_points.txt").read_text().splitlines()
    assert "Requires-Dist: torch" in (info / "METADATA").read_text()
    there = subprocess.run(
        [sys.executable, "-m", "vatt", "report", "nothing"],
        **{"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(site)}, "capture_output": True, "text": True},
        timeout=HANG,
    )
    assert (there.returncode, there.stderr) == (1, "error: nothing: no such run folder\n")


@pytest.mark.slow
@pytest.mark.skipif("VATT_TEST_WHEEL" not in os.environ, reason="takes minutes: set VATT_TEST_WHEEL")
def test_a_wheel_makes_the_sample_trains_indexes_and_searches_in_an_empty_folder(checkout, tmp_path):
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    wheel = run(sys.executable, "-c", build, tmp_path / "dist", cwd=checkout).strip().splitlines()[-1]
    shutil.unpack_archive(tmp_path / "dist" / wheel, tmp_path / "site", "zip")
    shutil.rmtree(checkout)
    empty = tmp_path / "empty"
    empty.mkdir()

    def vatt(*words: str | int) -> str:
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        command = [sys.executable, "-m", "vatt", *map(str, words)]
        done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, timeout=10 * HANG)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    vatt("sample", "--train", 8, "--val", 4, "--out", "clips")
    vatt(
        "pretrain",
        "--data",
        "clips/manifest.csv",
        "--model",
        "vatt-tiny",
        "--batch-size",
        4,
        "--steps",
        2,
        "--out",
        "run",
    )
    vatt("index", "clips/val", "--model", "run", "--out", "index")
    assert ".mp4" in vatt("search", "index", "a red circle", "--json")
    assert sorted(path.name for path in empty.iterdir()) == ["clips", "index", "run"]


@pytest.mark.slow
def test_editable_install(checkout, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    run(*pip, "--prefix", tmp_path / "prefix", "-e", checkout, cwd=tmp_path)
    site = next((tmp_path / "prefix").glob("lib*/python*/site-packages"))
    kernels, program = probe(site, cwd=tmp_path)
    assert kernels.resolve() == checkout / "kernels" / "__init__.py"
    assert program == checkout / "train" / "pretrain.py"


def test_building_needs_no_torch(checkout):
    """setup.py runs in an isolated build environment that holds setuptools alone."""
    text = (checkout / "setup.py").read_text() + (checkout / "pyproject.toml").read_text().partition("[project]")[0]
    assert "import torch" not in text
    assert 'requires = ["setuptools' in text
