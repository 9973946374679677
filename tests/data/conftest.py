"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.pools import pool


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


@pytest.fixture
def opened():
    """Makes pools, and closes them."""
    made = []

    def make(*arguments, **options):
        made.append(pool(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
