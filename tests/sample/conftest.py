"""One small sample set for all tests of this folder."""

from __future__ import annotations

import pytest

from vatt.sample import build


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sample") / "set", seed=3, train=12, val=6, workers=1).parent
