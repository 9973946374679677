"""From arguments to an exit status: what is told in one line, and what is raised."""

from __future__ import annotations

import argparse
import errno

import pytest
import torch

from train.core import command
from train.core.command import Parser, add_training_flags, run_job
from train.core.ranks import RankContext
from vatt.config import ConfigError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(command, "start_distributed", lambda: RankContext(0, 1, torch.device("cpu")))
    monkeypatch.setattr(command, "stop_distributed", lambda: None)


def outcome(error, arguments=("--out", "folder")):
    """The exit status of a job that ends so."""

    def parse(words):
        parser = Parser()
        add_training_flags(parser)
        return parser.parse_args(words)

    def run(options: argparse.Namespace, context: RankContext) -> int:
        if isinstance(error, BaseException):
            raise error
        return error

    return run_job(list(arguments), parse, run)


@pytest.mark.parametrize("status", [0, 1])
def test_the_status_of_a_job_is_that_of_the_command(status):
    assert outcome(status) == status


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("optim.lr: must be above 0"), "error: optim.lr: must be above 0\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), "error: a.csv: No such file\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: folder: No space left on device\n"),
        (
            RuntimeError("[gloo/tcp] Connection closed by peer"),
            "error: another rank has ended: it did not say why, see its own output; it may have been killed\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_line(error, line, capsys):
    assert outcome(error) == 1
    assert capsys.readouterr().err == line


def test_a_file_that_is_not_named_is_that_of_the_run(capsys):
    assert outcome(OSError(errno.ENOSPC, "No space left on device"), arguments=()) == 1
    assert capsys.readouterr().err == "error: the folder of the run: No space left on device\n"


def test_an_interrupt_is_130(capsys):
    assert outcome(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("fault", [RuntimeError("shape"), ValueError("axis"), KeyError("name")])
def test_a_fault_of_ours_is_raised(fault):
    with pytest.raises(type(fault)):
        outcome(fault)


def test_a_command_line_that_is_wrong_names_the_nearest_flag(capsys):
    with pytest.raises(SystemExit, match="2"):
        outcome(0, arguments=["--stpes", "3"])
    assert "did you mean --steps?" in capsys.readouterr().err
