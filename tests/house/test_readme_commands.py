"""Every command that the README shows has flags and values that exist."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from train.evaluate import parse as evaluation
from train.finetuning.cli import parser as finetuning
from train.pretraining.cli import parser as pretraining
from vatt.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
STARTS = ("deepspeed ", "vatt ", "python train/", "python -m vatt", "python examples/")


def commands():
    """Commands in code blocks and in code spans of tables, lines that go on joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    found = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    found += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    words = [part.strip() for line in found for part in line.split("&&")]
    left_out = ("...", "--help")
    return sorted({w for w in words if w.startswith(STARTS) and len(w.split()) > 2 and not w.endswith(left_out)})


def vatt_parser(name):
    made = argparse.ArgumentParser(exit_on_error=False)
    import_module(f"vatt.cli.{name}").add_arguments(made)
    return made


@pytest.mark.parametrize("command", commands())
def test_the_command_is_valid(command):
    words = [word for word in shlex.split(command) if word not in ("[", "]")]
    if words[0] == "deepspeed":
        words = words[words.index(next(w for w in words if w.startswith("train/"))) :]
    if words[0] == "python":
        words = words[1:]
    if words[0] == "vatt":
        assert words[1] in COMMANDS
        vatt_parser(words[1]).parse_args(words[2:])
    elif words[0] == "train/pretrain.py":
        pretraining().parse_intermixed_args([word for word in words[1:] if word not in ("M", "S")])
    elif words[0] == "train/finetune.py":
        finetuning().parse_intermixed_args(words[1:])
    elif words[0] == "train/evaluate.py":
        evaluation(words[1:])
    elif words[0].startswith("examples/"):
        text = (ROOT / words[0]).read_text()
        for flag in (word for word in words[1:] if word.startswith("--")):
            assert f'"{flag}"' in text, f"{words[0]} has no {flag}"
    else:
        assert words[0] == "-m"
        import_module(words[1])


def test_commands_are_found():
    found = commands()
    assert len(found) >= 15
    assert any(command.startswith("vatt convert") for command in found)
