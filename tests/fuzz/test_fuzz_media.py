"""That the fuzz of media finds what is planted. Its short form runs in tests/data/test_decode_hostile.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz import media


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "j.wav").write_bytes(b"RIFF" + bytes(100))
    return tmp_path


def test_growth_of_memory_is_found(folder, monkeypatch, capsys):
    """Also of memory that was given back by the end of the file."""

    def takes_memory(path, kind):
        np.ones(50 << 20, np.uint8)
        return "clip"

    monkeypatch.setattr(media, "decode", takes_memory)
    assert media.run(folder, 2, seed=3) == 0
    found = capsys.readouterr().out
    assert 45 < float(found.rpartition("largest growth ")[2].split()[0]) < 100
    monkeypatch.setattr(media, "MOST", 40)
    assert media.run(folder, 2, seed=3) == 1
    assert "seed 3 (j.wav): memory grew by " in capsys.readouterr().out


def test_another_exception_is_found(folder, monkeypatch, capsys):
    def fails(path, kind):
        raise IndexError("planted")

    monkeypatch.setattr(media, "decode", fails)
    assert media.run(folder, 1, seed=7) == 1
    assert "seed 7 (j.wav): " in capsys.readouterr().out
