"""Packages that give their names on first use give what a package without that gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import vatt
import vatt.data
import vatt.models

ROOT = Path(__file__).parents[2]


def test_names_and_modules_are_there_and_others_are_refused():
    assert vatt.models.VATT.__module__ == "vatt.models.vatt"
    assert vatt.data.clips.Clip is vatt.data.Clip
    assert {"VATT", "load_pretrained"} <= set(dir(vatt))
    with pytest.raises(AttributeError, match=r"module 'vatt.data' has no attribute 'Clips'"):
        vatt.data.Clips  # noqa: B018


def test_type_checkers_do_not_see_a_getattr_that_takes_any_name():
    found = subprocess.run(["git", "grep", "-B1", "= on_first_use(__name__)", "--", "vatt"], **_TEXT).stdout
    lines = [line for line in found.splitlines() if line.startswith("vatt/") and "lazy.py" not in line]
    assert len(lines) == 8
    assert all("if not TYPE_CHECKING:" in line for line in lines[::2])


_TEXT = dict(cwd=ROOT, capture_output=True, text=True, check=True)
