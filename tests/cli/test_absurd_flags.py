"""Absurd values of flags are refused in one line that names the flag, before anything is read or computed."""

from __future__ import annotations

import argparse

import pytest

from vatt.__main__ import main
from vatt.cli import embed, plan

ABSURD = ("-1", str(10**30), "1e30", "nan", "inf", "", "\udcff\x1b[31m", "9" * 5000)
NUMBERS = {
    "plan": ["--model", "vatt-tiny", "--gpus", "4", "--batch", "16"],
    "embed": [__file__, "--model", __file__, "--out", "x.npy"],
}


def number_flags(module):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return [action.option_strings[0] for action in parser._actions if action.type in (int, float)]


def refusal(words, capsys):
    """The line of the error."""
    try:
        code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code in (1, 2), error
    assert "\x1b" not in error
    (line,) = (line for line in error.splitlines() if "error: " in line)
    return line


@pytest.mark.parametrize(
    ("name", "flag"),
    [(name, flag) for name, module in (("plan", plan), ("embed", embed)) for flag in number_flags(module)],
)
def test_numbers(name, flag, capsys):
    words = NUMBERS[name]
    for value in ABSURD:
        given = [*words, f"{flag}={value}"]
        if flag in words:
            given = [*words[: words.index(flag)], f"{flag}={value}", *words[words.index(flag) + 2 :]]
        line = refusal([name, *given], capsys)
        assert flag in line or flag.strip("-").replace("-", "_") in line, line


@pytest.mark.parametrize("value", ["", "0/0", "2/1", "-1/2", "1/1e9", "1", "\udcff/1", f"1/{'9' * 5000}"])
def test_shares(value, tmp_path, capsys):
    assert "--shard-of" in refusal(["embed", *NUMBERS["embed"], f"--shard-of={value}"], capsys)
    packing = ["data", "pack", str(tmp_path), "--out", str(tmp_path / "out"), f"--shard-of={value}"]
    assert "share" in refusal(packing, capsys).replace("--shard-of", "share")


@pytest.mark.parametrize("value", ["", "-1", "nan", "vat-base", "\udcff\x1b[31m", "x" * 5000])
def test_names_of_models(value, capsys):
    assert "--model" in refusal(["accounting", "--model", value], capsys)
    assert "--model" in refusal(["plan", f"--model={value}", "--gpus", "4", "--batch", "16"], capsys)
