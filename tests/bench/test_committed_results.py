"""The table and the picture of docs/benchmarks.md are those that the committed results give."""

from __future__ import annotations

import re

import pytest

from bench.jobs.decoding import BEFORE, FILES, FILMS, SHARDS, SHARDS_PLANES, table
from bench.report.run import main
from bench.store import RESULTS, read
from vatt.files import TREE

PAGE = TREE / "docs" / "benchmarks.md"
DECODE = TREE / "bench" / "results" / "decode.csv"
REGION = re.compile(r"<!-- table: python -m bench report --markdown -->\n(.*?)<!-- end of table -->", re.S)


def test_the_table(capsys):
    assert main(["--markdown"]) == 0
    found = REGION.search(PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE} has lost the marks of its table"
    assert found.group(1).strip() == capsys.readouterr().out.strip()


def test_the_picture(tmp_path):
    path = tmp_path / "speed.svg"
    assert main(["--svg", str(path)]) == 0
    assert path.read_text() == (TREE / "bench" / "results" / "speed.svg").read_text()


@pytest.mark.parametrize(("page", "films"), [("benchmarks", FILMS), ("feeding", FILMS[:1])])
def test_the_tables_of_decoding(page, films):
    text = (TREE / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- table: python -m bench decode -->\n(.*?)\n<!-- end of table -->", text, re.S)
    rows = [row for row in read(DECODE) if row["case"] in {film.name for film in films}]
    assert found.group(1) == table(rows)
    assert {row["provider"] for row in rows} >= {BEFORE, FILES, SHARDS, SHARDS_PLANES}


def test_committed_rows_say_where_they_come_from():
    rows = read(RESULTS)
    assert {row["suite"] for row in rows} >= {"ops", "steps", "jobs", "roof"}
    for row in rows + read(DECODE):
        assert re.fullmatch(r"[0-9a-f]{12}", row["commit"]), row
        assert row["dirty"] == "False", row
        assert row["device"], row
        assert row["torch"], row
        # "python -m bench ops", and of older rows "python -m bench.run"
        assert re.match(r"python -m bench[ .]", row["command"]), row
