"""Results files: what is written comes back, nothing else is accepted, and a row knows where it comes from."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.limits import HANG
from vatt import results
from vatt.files import TREE
from vatt.results import ORIGIN, ResultsError, Table, append, origin, read

FIELDS = ("op", "ms", "note", "dirty")


def row(**values):
    return dict(op="norm", ms=1.5, **values)


def test_rows_come_back_and_the_file_only_grows(tmp_path):
    path = tmp_path / "folder" / "results.csv"
    append(path, [row(note='a "quoted", text', dirty=None)], FIELDS)
    first = path.read_bytes()
    append(path, [dict(ms=1 / 3), row(dirty=True)], FIELDS)
    assert path.read_bytes().startswith(first)
    found = read(path, FIELDS)
    assert [set(r) for r in found] == [set(FIELDS)] * 3
    assert found[0]["note"] == 'a "quoted", text'
    assert (found[0]["dirty"], found[1]["ms"], found[2]["dirty"]) == ("", "0.333333", "True")


def test_columns_may_stand_in_another_order(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(reversed(FIELDS)) + "\n")
    append(path, [row()], FIELDS)
    assert read(path, FIELDS)[0]["op"] == "norm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("op,b\n", "line 1: columns are missing: ms, note"),
        (",".join((*FIELDS, "extra")) + "\n", "unknown columns: extra"),
        (",".join(FIELDS) + "\nx,y\n", "line 2: 2 columns where the header has 4"),
    ],
)
def test_a_bad_file_is_named_with_line_and_column(tmp_path, text, words):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ResultsError) as caught:
        read(path, FIELDS)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("name,value\nx,1\n")
    with pytest.raises(ResultsError, match="left as it is"):
        append(path, [row()], FIELDS)
    assert path.read_text() == "name,value\nx,1\n"
    with pytest.raises(ValueError, match="speed"):
        append(tmp_path / "new.csv", [row(speed=1)], FIELDS)
    with pytest.raises(ResultsError, match="cannot be read"):
        read(tmp_path / "missing.csv", FIELDS)


@pytest.mark.slow
def test_two_processes_append_whole_rows(tmp_path):
    path = tmp_path / "results.csv"
    code = (
        "import sys; from pathlib import Path; from vatt.results import append\n"
        "for n in range(60): append(Path(sys.argv[1]), [dict(op=sys.argv[2] * 500, n=n)], ('op', 'n'))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    assert [process.wait(HANG) for process in running] == [0, 0]
    found = read(path, ("op", "n"))
    assert sorted((r["op"][0], int(r["n"])) for r in found) == [(x, n) for x in "ab" for n in range(60)]
    assert {len(r["op"]) for r in found} == {500}


def test_origin(monkeypatch):
    found = origin(torch.device("cpu"))
    assert set(found) == set(ORIGIN)
    assert found["threads"] == str(torch.get_num_threads())
    assert "threads" not in found["device"]
    assert found["torch"] == torch.__version__
    told = {"status": " M bench/results/rows.csv", "rev-parse": "0123456789abcdef"}
    monkeypatch.setattr(results, "git", lambda *words: told[words[0]])
    assert origin(torch.device("cpu"))["dirty"] == "True"
    aside = origin(torch.device("cpu"), aside=TREE / "bench" / "results" / "rows.csv")
    assert (aside["dirty"], aside["commit"]) == ("False", "0123456789ab")
    monkeypatch.setattr(results, "git", lambda *words: None)
    unknown = origin(torch.device("cpu"))
    assert (unknown["dirty"], unknown["commit"]) == ("unknown", "unknown")


def test_a_last_line_that_was_cut_off_is_named_and_no_row_joins_it(tmp_path):
    path = tmp_path / "results.csv"
    append(path, [row(), row()], FIELDS)
    whole = path.read_text()
    path.write_text(whole[:-4])
    with pytest.raises(ResultsError, match=r"results.csv, line 3: is cut off"):
        append(path, [row()], FIELDS)
    assert path.read_text() == whole[:-4]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_figure_is_not_written(tmp_path, value):
    path = tmp_path / "results.csv"
    append(path, [row()], FIELDS)
    with pytest.raises(ValueError, match="is no figure for a results file"):
        append(path, [row(), dict(ms=value)], FIELDS)
    assert len(read(path, FIELDS)) == 1


def test_a_table_keeps_its_rows_when_it_is_resumed(tmp_path):
    path = tmp_path / "table.csv"
    table = Table(path, ("op", "error"), resume=False)
    table.add({"op": "norm", "error": float("nan")})
    table.add({"op": "mlp", "error": 0.5})
    again = Table(path, ("op", "error"), resume=True)
    assert again.rows == table.rows == [{"op": "norm", "error": "nan"}, {"op": "mlp", "error": "0.5"}]
    assert again.find(error=0.5) == {"op": "mlp", "error": "0.5"}
    assert again.find(op="nce") is None
    with pytest.raises(ValueError, match="speed"):
        table.add({"speed": 1})
    assert Table(path, ("op", "error"), resume=False).rows == []
