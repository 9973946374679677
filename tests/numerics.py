"""The project's rule for comparing numbers: as exact as eager PyTorch in the same type, measured against float64.

A fixed tolerance between two float32 results asks how exact *both* are, and so fails on another CPU, whose eager result
may be the worse one. Import from here as `tests.numerics`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Results = Mapping[str, Tensor | None]


def assert_as_exact_as_eager(
    result: Tensor | Results,
    eager: Tensor | Results,
    exact: Tensor | Results,
    *,
    factor: float = 2.0,
    floor: float | None = None,
    scale: float | None = None,
) -> None:
    """Asserts that ``result`` is at most ``factor`` times as far from ``exact`` as ``eager`` is, and a little more.

    The distance of two arrays is their largest absolute difference. ``eager`` is what plain PyTorch computes in the
    type of ``result``, ``exact`` the same in float64 on the same (rounded) inputs.

    Args:
        result, eager, exact: an array, or arrays by name; None stands for a gradient that is not there.
        factor: how much worse than eager a result may be.
        floor: the little more, as a share of ``scale``: for arrays that eager gets right by luck. By default eight
            roundings of the type of ``result``.
        scale: the largest number that the arrays were computed from. By default that of each array of ``exact``. Where
            an array is zero but for rounding, give that of all arrays, see `largest`.

    Raises:
        AssertionError: names the array, its error, and what was allowed.
    """
    named = [x if isinstance(x, Mapping) else {"result": x} for x in (result, eager, exact)]
    assert named[0].keys() == named[1].keys() == named[2].keys(), "results of different names"
    for name, value in named[2].items():
        found, plain = named[0][name], named[1][name]
        if value is None or found is None or plain is None:
            assert value is found is plain, f"{name}: some are None, others are not"
            continue
        assert found.dtype == plain.dtype, f"{name}: {found.dtype}, of eager {plain.dtype}"
        assert found.shape == plain.shape == value.shape, f"{name}: {found.shape}, {plain.shape}, {value.shape}"
        error, of_eager = distance(found, value), distance(plain, value)
        size = largest(value) if scale is None else scale
        share = 8 * torch.finfo(found.dtype).eps if floor is None else floor
        allowed = factor * of_eager + share * size
        # A NaN is in no order, so it fails.
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}; of eager {of_eager:.3g}"


def distance(x: Tensor, exact: Tensor) -> float:
    """The largest absolute difference, 0 of empty arrays, NaN if either holds one."""
    return largest(x.double() - exact.double())


def largest(x: Tensor | Results) -> float:
    """The largest absolute number of an array, or of several by name."""
    if isinstance(x, Mapping):
        return max([0.0] + [largest(value) for value in x.values() if value is not None])
    return float(x.abs().max()) if x.numel() else 0.0
