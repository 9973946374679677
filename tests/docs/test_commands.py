"""Every command that a document shows has flags and values that exist."""

from __future__ import annotations

import argparse
import contextlib
import io
import pkgutil
import re
import shlex
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.__main__ import SUBCOMMANDS
from bench.__main__ import main as benchmark
from train.evaluation.cli import parse as evaluation
from train.finetuning.cli import parser as finetuning
from train.pretraining.cli import parser as pretraining
from vatt.__main__ import COMMANDS, JOBS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", ROOT / "examples" / "README.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
STARTS = ("deepspeed ", "vatt ", "python train/", "python -m ", "python examples/", "python docs/")


def shown(document: Path) -> set[str]:
    """Commands in code blocks and in code spans, lines that go on joined."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    found = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    found += [" ".join(span.split()) for span in spans]
    words = [part.strip() for line in found for part in line.split("&&")]
    left_out = ("...", "--help")
    return {w for w in words if w.startswith(STARTS) and len(w.split()) > 1 and not w.endswith(left_out)}


CASES = [(path.relative_to(ROOT).as_posix(), command) for path in DOCUMENTS for command in sorted(shown(path))]


MOVED = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]


def vatt_parser(name):
    made = argparse.ArgumentParser(exit_on_error=False)
    import_module(f"vatt.cli.{name}").add_arguments(made)
    return made


@cache
def bench_help(name):
    """What ``python -m bench NAME --help`` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        benchmark([name, "--help"])
    return printed.getvalue()


def check_flags(words, text):
    """Each flag among ``words`` occurs in ``text``: a help, or the source of a script."""
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), f"there is no {flag}"


@pytest.mark.parametrize(("document", "command"), CASES)
def test_the_command_is_valid(document, command):
    words = shlex.split(re.sub(r"\[[^]]*\]", "", command).replace("vatt data NAME", "vatt data kinetics"))
    if words[0] == "deepspeed":
        words = words[words.index(next(w for w in words if w.startswith("train/"))) :]
    if words[0] == "python":
        words = words[1:]
    names_only = len(words) <= 3 and not any(word.startswith("--") for word in words)  # such as `vatt data check`
    if words[0] == "vatt" and words[1] in JOBS:
        words[:2] = [f"train/{words[1]}.py"]
    if words[0] == "vatt":
        assert words[1] in COMMANDS
        if not names_only:
            vatt_parser(words[1]).parse_args(words[2:])
    elif words[0] == "train/pretrain.py":
        pretraining().parse_intermixed_args([word for word in words[1:] if word not in ("M", "S")])
    elif words[0] == "train/finetune.py":
        finetuning().parse_intermixed_args(words[1:])
    elif words[0] == "train/report.py":
        assert len(words) <= 2
    elif words[0] == "train/evaluate.py" and len(words) > 1:
        evaluation(words[1:])
    elif words[:2] == ["-m", "bench"] and len(words) > 2:
        assert words[2] in SUBCOMMANDS
        check_flags(words[3:], bench_help(words[2]))
    elif words[0] == "-m":
        assert find_spec(words[1]), words[1]
    else:
        check_flags(words[1:], (ROOT / words[0]).read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", MOVED)
def test_what_moved_is_where_the_changelog_says(line):
    now = line.split("|")[2]
    spans = re.findall(r"`([^`]+)`", now)
    assert spans
    for span in spans:
        if span.startswith(STARTS):
            test_the_command_is_valid("CHANGELOG.md", span)
        else:
            assert pkgutil.resolve_name(span)


def test_commands_are_found():
    commands = [command for _, command in CASES]
    assert len([name for name, _ in CASES if name == "README.md"]) >= 7
    assert len(commands) >= 60
    assert any(command.startswith("vatt convert") for command in commands)
    assert any(command.startswith("python -m bench") for command in commands)


@pytest.mark.parametrize(
    "command", ["vatt embed a/ --model m --outt b.npy", "python -m bench ops --nosuch", "python -m bench opps"]
)
def test_a_wrong_command_is_found(command):
    with pytest.raises((SystemExit, argparse.ArgumentError, AssertionError)):
        test_the_command_is_valid("README.md", command)
