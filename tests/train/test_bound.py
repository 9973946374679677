"""What bound a run: from the shares of waiting in its records, in a line with the setting that helps."""

from __future__ import annotations

import pytest

from train.core.bound import in_words, shares_of, what_helps


def record(data, device=0.0, ranks=0.0):
    return {"data_wait": data, "device_wait": device, "ranks_wait": ranks, "loss": 1.0}


def test_the_start_of_a_run_does_not_count():
    found = shares_of([record(0.9), record(0.2, 0.1), record(0.4, 0.3, 0.1)])
    assert found == pytest.approx({"data": 0.3, "device": 0.2, "ranks": 0.05, "host": 0.45})
    assert shares_of([record(0.9)])["host"] == pytest.approx(0.1)  # there is nothing else
    assert shares_of([]) == {}
    assert shares_of([{"data_wait": 0.5}]) == {}  # of an older version
    assert shares_of([record(0.7, 0.4)])["host"] == 0


@pytest.mark.parametrize(
    ("shares", "on_gpu", "told"),
    [
        ((0.62, 0.08, 0.0), True, "data: 62% of the time waiting for the loader, 30% host, 8% waiting for the GPU"),
        (
            (0.0, 0.7, 0.1),
            True,
            "the GPU: 0% of the time waiting for the loader, 20% host, 70% waiting for the GPU",
        ),
        ((0.1, 0.3, 0.0), True, "the host: 10% of the time waiting for the loader, 60% host, 30% waiting for the GPU"),
        ((0.1, 0.0, 0.0), False, "computation: 10% of the time waiting for the loader, 90% computation"),
        ((0.6, 0.0, 0.0), False, "data: 60% of the time waiting for the loader, 40% computation"),
    ],
)
def test_it_is_told_with_its_figures(shares, on_gpu, told):
    assert in_words(shares_of([record(*shares)]), on_gpu).startswith(told)


def test_what_helps_is_what_is_not_set_yet():
    data = shares_of([record(0.6)])
    assert what_helps(data, True, 2, 16, "cpu") == (
        "try data.workers=16 (now 2), data packed by vatt data pack, data.augment_on=gpu"
    )
    assert what_helps(data, True, 16, 16, "gpu") == "try data packed by vatt data pack"
    assert what_helps(data, True, 16, 16, "auto") == "try data packed by vatt data pack"  # it is on the GPU already
    assert "augment_on" not in what_helps(data, False, 2, 16, "cpu")
    assert "cuda_graphs" in what_helps(shares_of([record(0.1, 0.2)]), True, 2, 16, "cpu")
    assert "reading keeps up" in what_helps(shares_of([record(0.1, 0.8)]), True, 2, 16, "cpu")
    assert what_helps(shares_of([record(0.1)]), False, 2, 16, "cpu") == ""
