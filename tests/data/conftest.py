"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def make(tmp_path):
    """Makes a folder of empty files; reading annotations does not open them."""

    def files(*names: str) -> Path:
        folder = tmp_path / "media"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        return folder

    return files
