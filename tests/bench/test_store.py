"""The results file of the benchmarks: its columns, figures that are figures, and the environment."""

from __future__ import annotations

import json

import pytest
import torch

from bench import store
from bench.store import FIELDS, append, read
from vatt.results import ORIGIN, ResultsError, number


def row(**values):
    return dict(suite="ops", op="norm", case="layer", provider="torch", ms=1.5, **values)


def test_rows_come_back_with_their_numbers(tmp_path):
    path = tmp_path / "results.csv"
    append(path, [row(peak_mib=None)])
    (found,) = read(path)
    assert set(found) == set(FIELDS)
    assert number(found, "ms") == 1.5
    assert number(found, "peak_mib") is None


@pytest.mark.parametrize(("name", "value"), [("ms", "nan"), ("ms", "0"), ("rate", "fast"), ("error", "-1")])
def test_a_figure_that_is_none_is_named_with_its_line(tmp_path, name, value):
    path = tmp_path / "results.csv"
    append(path, [row()])
    with path.open("a") as file:
        file.write(",".join(value if field == name else "" for field in FIELDS) + "\n")
    with pytest.raises(ResultsError, match=f"results.csv, line 3: {name} is '{value}', not a"):
        read(path)


def test_the_environment_names_origin_driver_and_command(tmp_path):
    path = tmp_path / "environment.json"
    facts = store.write_environment(path, torch.device("cpu"), ["bench", "check"], "0123456789abcdef")
    assert json.loads(path.read_text()) == facts
    assert set(ORIGIN) | {"driver", "command", "vatt-torch"} <= set(facts)
    assert (facts["driver"], facts["command"], facts["commit"]) == ("none", "bench check", "0123456789abcdef")
