"""Packages that are missing are told with one form of command, of extras that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from vatt import extras
from vatt.extras import install

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_is_that_of_the_checkout_or_of_the_installed_package(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install("hub") == "pip install -e '.[hub]'"
    place = tmp_path / "a clone"
    place.mkdir()
    (place / "pyproject.toml").touch()
    assert install("hub", place) == f"pip install -e '{place}[hub]'"
    assert install("hub", tmp_path) == "pip install 'vatt-torch[hub]'"
    assert extras._HERE == ROOT


def test_messages_and_pages_name_extras_that_there_are_by_the_one_form():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [path for folder in ("vatt", "train", "docs", "examples") for path in (ROOT / folder).rglob("*.*")]
    asked = {}
    for path in [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if path.suffix not in (".py", ".md"):
            continue
        text = path.read_text()
        for name in re.findall(r"\binstall\([\"'](\w+)[\"']\)|\.\[(\w+)\]'", text):
            asked.setdefault(name[0] or name[1], []).append(path)
        if path.name not in ("extras.py", "start.md"):  # start.md tells of the wheel
            assert "vatt-torch[" not in text, path
    assert asked.keys() <= known.keys(), asked
    assert {"export", "hub", "mteb", "parquet", "probe", "s3", "serve", "track"} <= asked.keys()
