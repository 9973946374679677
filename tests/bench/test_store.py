"""The results file: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import store
from bench.store import FIELDS, append, read
from tests.limits import HANG
from vatt.results import ORIGIN, ResultsError, origin


def row(**values):
    return dict(suite="ops", op="norm", case="layer", provider="torch", ms=1.5, **values)


def test_rows_come_back_and_the_file_only_grows(tmp_path):
    path = tmp_path / "folder" / "results.csv"
    append(path, [row(note='a "quoted", text', peak_mib=None)])
    first = path.read_bytes()
    append(path, [row(ms_p20=1 / 3), row(dirty=True)])
    assert path.read_bytes().startswith(first)
    found = read(path)
    assert [set(r) for r in found] == [set(FIELDS)] * 3
    assert found[0]["note"] == 'a "quoted", text'
    assert (found[0]["peak_mib"], found[1]["ms_p20"], found[2]["dirty"]) == ("", "0.333333", "True")
    assert store.number(found[0], "ms") == 1.5
    assert store.number(found[0], "peak_mib") is None


def test_columns_may_stand_in_another_order(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(reversed(FIELDS)) + "\n")
    append(path, [row()])
    assert read(path)[0]["op"] == "norm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a,b\n", "line 1: columns are missing: time, run"),
        (",".join((*FIELDS, "extra")) + "\n", "unknown columns: extra"),
        (",".join(FIELDS) + "\nx,y\n", "line 2: 2 columns where the header has"),
        (",".join(FIELDS) + "\n" + ",".join("nan" if f == "ms" else "" for f in FIELDS) + "\n", "line 2: ms is 'nan'"),
        (",".join(FIELDS) + "\n" + ",".join("fast" if f == "rate" else "" for f in FIELDS) + "\n", "rate is 'fast'"),
    ],
)
def test_a_bad_file_is_named_with_line_and_column(tmp_path, text, words):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ResultsError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("name,value\nx,1\n")
    with pytest.raises(ResultsError, match="left as it is"):
        append(path, [row()])
    assert path.read_text() == "name,value\nx,1\n"
    with pytest.raises(ValueError, match="speed"):
        append(tmp_path / "new.csv", [row(speed=1)])
    with pytest.raises(ResultsError, match="cannot be read"):
        read(tmp_path / "missing.csv")


@pytest.mark.slow
def test_two_processes_append_whole_rows(tmp_path):
    path = tmp_path / "results.csv"
    code = (
        "import sys; from pathlib import Path; from bench.store import append\n"
        "for n in range(60): append(Path(sys.argv[1]), [dict(op=sys.argv[2] * 500, repeats=n)])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    assert [process.wait(HANG) for process in running] == [0, 0]
    found = read(path)
    assert sorted((r["op"][0], int(r["repeats"])) for r in found) == [(x, n) for x in "ab" for n in range(60)]
    assert {len(r["op"]) for r in found} == {500}


def test_origin():
    found = origin(torch.device("cpu"))
    assert set(found) == set(ORIGIN)
    assert found["threads"] == str(torch.get_num_threads())
    assert "threads" not in found["device"]
    assert found["torch"] == torch.__version__


def test_a_last_line_that_was_cut_off_is_named_and_no_row_joins_it(tmp_path):
    path = tmp_path / "results.csv"
    append(path, [row(), row()])
    whole = path.read_text()
    path.write_text(whole[:-9])
    with pytest.raises(ResultsError, match=r"results.csv, line 3: is cut off"):
        append(path, [row()])
    assert path.read_text() == whole[:-9]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_figure_is_not_written(tmp_path, value):
    path = tmp_path / "results.csv"
    append(path, [row()])
    with pytest.raises(ValueError, match="is no figure for a results file"):
        append(path, [row(), row(error=value)])
    assert len(read(path)) == 1
