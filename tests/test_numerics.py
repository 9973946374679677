"""The rule of `tests.numerics` fails where it must."""

from __future__ import annotations

import pytest
import torch

from tests.numerics import assert_as_exact_as_eager, largest, nudged

EXACT = torch.linspace(-2, 2, 9, dtype=torch.float64)
ERROR = 1e-3  # of eager: far above any rounding


def off(factor, dtype=torch.float32):
    """``EXACT`` with ``factor`` times the error of eager in one place."""
    x = EXACT.clone()
    x[4] += factor * ERROR
    return x.to(dtype)


@pytest.mark.parametrize("factor", [-1.9, 0.0, 1.0, 1.9])
def test_a_result_as_exact_as_eager_passes(factor):
    assert_as_exact_as_eager(off(factor), off(1), EXACT)


@pytest.mark.parametrize("factor", [-3, 3, float("nan"), float("inf")])
def test_a_result_three_times_worse_fails(factor):
    with pytest.raises(AssertionError, match=r"result: error .* allowed 0\.002.*; of eager 0\.001"):
        assert_as_exact_as_eager(off(factor), off(1), EXACT)


def test_one_bad_array_of_several_is_named():
    eager = {"good": off(1), "bad": off(1), "missing": None}
    exact = {"good": EXACT, "bad": EXACT, "missing": None}
    assert_as_exact_as_eager(eager, eager, exact)
    with pytest.raises(AssertionError, match="bad: error"):
        assert_as_exact_as_eager({**eager, "bad": off(3)}, eager, exact)
    with pytest.raises(AssertionError, match="missing: some are None"):
        assert_as_exact_as_eager({**eager, "missing": off(1)}, eager, exact)
    with pytest.raises(AssertionError, match="different names"):
        assert_as_exact_as_eager({"good": off(1)}, eager, exact)


def test_the_floor_is_for_rounding_alone():
    """Where eager is right by luck, a few roundings of the largest number pass, and no more."""
    eager = EXACT.float()
    assert_as_exact_as_eager(off(1e-3), eager, EXACT)
    with pytest.raises(AssertionError):
        assert_as_exact_as_eager(off(1e-2), eager, EXACT)
    with pytest.raises(AssertionError):
        assert_as_exact_as_eager(off(1e-3), eager, EXACT, floor=0)


def test_the_scale_is_of_the_array_unless_it_is_given():
    noise, zero = torch.full((3,), 1e-6), torch.zeros(3)
    with pytest.raises(AssertionError):
        assert_as_exact_as_eager(noise, zero, zero.double())
    assert_as_exact_as_eager(noise, zero, zero.double(), scale=largest({"zero": zero, "gradient": EXACT}))


def test_of_several_runs_of_eager_the_worst_counts():
    runs = [{"x": off(factor)} for factor in (0.1, 2, 0.3)]
    assert_as_exact_as_eager({"x": off(3)}, runs, {"x": EXACT})
    with pytest.raises(AssertionError, match="x: error"):
        assert_as_exact_as_eager({"x": off(6)}, runs, {"x": EXACT})


def test_a_nudge_is_one_bit():
    x = {"x": torch.linspace(-3, 3, 1000), "n": torch.arange(3)}
    ours, other, again = nudged(x, 0), nudged(x, 1), nudged(x, 0)
    steps = (ours["x"].view(torch.int32) - x["x"].view(torch.int32)).abs()
    assert steps.unique().tolist() == [0, 1]
    assert torch.equal(ours["x"], again["x"])
    assert not torch.equal(ours["x"], other["x"])
    assert torch.equal(ours["n"], x["n"])


def test_types_and_shapes_must_be_the_same():
    with pytest.raises(AssertionError, match=r"result: torch\.float16, of eager torch\.float32"):
        assert_as_exact_as_eager(off(1, torch.float16), off(1), EXACT)
    with pytest.raises(AssertionError, match="result: "):
        assert_as_exact_as_eager(off(1)[:1], off(1), EXACT)
