"""A short form of the fuzz of text files, and that it finds what is planted."""

from __future__ import annotations

import pytest

from tests.fuzz import text


def test_mutated_text_files_are_read_or_refused(capsys):
    assert text.main(150, 15) == 0, capsys.readouterr().out
    assert "150 files, 0 findings" in capsys.readouterr().out


def _nothing(path):
    return path.read_bytes()


def _fails(path):
    raise IndexError("planted")


def _hangs(path):
    raise TimeoutError("took more than 20 s")


def _says_nothing(path):
    raise text.UserError("it is broken")


def _says_too_much(path):
    raise text.UserError(f"{path.name}: {'x' * 3000}")


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (_nothing, None),
        (_fails, "IndexError: planted"),
        (_hangs, "TimeoutError: took more than 20 s"),
        (_says_nothing, "does not name the file: it is broken"),
        (_says_too_much, "a message of 3005 characters"),
    ],
)
def test_what_counts_as_a_finding(tmp_path, read, wrong):
    path = tmp_path / "a.x"
    path.write_bytes(b"x")
    found = text.try_one(read, path)
    assert found == wrong if wrong is None else found.startswith(wrong)


def test_files_depend_on_the_seed_alone():
    every = text.seeds()
    made = [text.mutate(every[0][2], every[1][2], text.random.Random(f"{seed} 1")) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
