"""``vatt pretrain`` and the other jobs: which program is started, how, and from where."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from train.pretraining.cli import parser
from vatt.__main__ import COMMANDS, JOBS, main
from vatt.cli import jobs

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ["-m", "deepspeed.launcher.runner"]


@pytest.fixture
def gpus(monkeypatch):
    def have(count):
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    have(0)
    return have


def started(monkeypatch, arguments):
    """What ``vatt ARGUMENTS`` becomes: the words, and how its help will call it."""
    found = []

    def become(file, words, variables):
        found.extend([file, *words, variables[jobs.COMMAND]])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "execve", become)
    assert main(arguments) == 130
    return found


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_program_that_is_there(name):
    assert jobs.program(name).is_file()
    assert jobs.program(name).is_relative_to(ROOT / "train")


def test_the_commands_and_the_jobs_are_two_lists():
    assert JOBS.keys() == jobs.PROGRAMS.keys()
    assert not JOBS.keys() & COMMANDS.keys()


@pytest.mark.parametrize("count", [0, 1])
def test_without_several_gpus_python_runs_the_program_from_any_folder(count, gpus, monkeypatch, tmp_path):
    gpus(count)
    monkeypatch.chdir(tmp_path)
    words = started(monkeypatch, ["pretrain", "--data", "a folder/", "run.steps=3"])
    script = str(ROOT / "train" / "pretrain.py")
    assert words == [sys.executable, sys.executable, script, "--data", "a folder/", "run.steps=3", "vatt pretrain"]


def test_several_gpus_are_all_taken_by_the_launcher(gpus):
    gpus(4)
    script = str(ROOT / "train" / "finetune.py")
    assert jobs.command("finetune", ["--steps", "9"], {}) == [sys.executable, *LAUNCHER, script, "--steps", "9"]
    assert jobs.command("report", ["RUN"], {})[1:] == [str(ROOT / "train" / "report" / "__main__.py"), "RUN"]


@pytest.mark.parametrize(
    ("arguments", "variables"), [([], {"RANK": "3"}), ([], {"SLURM_PROCID": "0"}), (["--help"], {}), (["-h"], {})]
)
def test_below_a_launcher_and_for_help_there_is_no_other(arguments, variables, gpus):
    gpus(4)
    script = str(ROOT / "train" / "evaluate.py")
    assert jobs.command("evaluate", arguments, variables) == [sys.executable, script, *arguments]


def test_a_package_without_the_programs_says_so(tmp_path):
    with pytest.raises(jobs.NotInstalled, match=r"^vatt pretrain: .*/vatt came without the programs of train/"):
        jobs.program("pretrain", tmp_path / "vatt")


def test_the_help_of_a_job_has_the_name_by_which_it_was_started(monkeypatch):
    assert parser().prog == "deepspeed train/pretrain.py"
    monkeypatch.setenv(jobs.COMMAND, "vatt pretrain")
    assert parser().prog == "vatt pretrain"
