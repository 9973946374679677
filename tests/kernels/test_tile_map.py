"""The tile maps of packed attention: made once, kept, and never in the memory pool of a CUDA graph."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import torch

from vatt.kernels.attention import varlen
from vatt.kernels.attention.varlen import tile_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(varlen, "_tile_maps", {})
    varlen._copy_stream.cache_clear()
    yield
    varlen._copy_stream.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """Stands in for a GPU: copies stay on the CPU, with their thread and stream noted."""
    log, current = [], threading.local()

    @contextmanager
    def on(stream):
        current.stream = stream
        yield
        current.stream = None

    def copy(tiles, device):
        log.append((threading.get_ident(), getattr(current, "stream", None)))
        return tiles

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"copies of {device}")
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "to", copy)
    return log


def test_every_token_is_in_one_tile_and_the_longest_come_first():
    segments = ((2, 5), (3, 40), (1, 0))
    rows = tile_map(segments, (0, 1, 2), 16, CPU).tolist()
    assert [length for _, length, _ in rows] == [40] * 9 + [5] * 2
    covered = [first + token for first, length, start in rows for token in range(start, min(start + 16, length))]
    assert sorted(covered) == list(range(130))


def test_it_is_made_once_and_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr(varlen, "_MOST_TILE_MAPS", 2)
    maps = [tile_map(((1, length),), (0,), 16, CPU) for length in (1, 2, 3)]
    assert tile_map(((1, 3),), (0,), 16, CPU) is maps[2]
    assert tile_map(((1, 1),), (0,), 16, CPU) is not maps[0]


def test_its_memory_is_of_another_thread_and_stream_than_those_that_may_capture(gpu):
    first = tile_map(((2, 5),), (0,), 16, CUDA)
    assert tile_map(((2, 5),), (0,), 16, CUDA) is first
    ((thread, stream),) = gpu
    assert thread != threading.get_ident()
    assert stream == "copies of cuda:0"


def test_a_capture_finds_what_was_run_before_and_refuses_what_was_not(gpu, monkeypatch):
    known = tile_map(((2, 5),), (0,), 16, CUDA)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert tile_map(((2, 5),), (0,), 16, CUDA) is known
    with pytest.raises(RuntimeError, match="run it once before the capture"):
        tile_map(((2, 6),), (0,), 16, CUDA)
