"""The sample that small runs read."""

from __future__ import annotations

import pytest

from vatt.sample import build


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The manifest of 28 clips, which no test may change."""
    return build(tmp_path_factory.mktemp("sample") / "clips", train=16, val=12, workers=2, say=lambda text: None)
