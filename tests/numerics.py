"""The project's rule for comparing numbers: as exact as eager PyTorch in the same type, measured against float64.

A fixed tolerance between two float32 results asks how exact *both* are, and so fails on another CPU, whose eager result
may be the worse one. Import from here as `tests.numerics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Results = Mapping[str, Tensor | None]


def assert_as_exact_as_eager(
    result: Tensor | Results,
    eager: Tensor | Results | Sequence[Results],
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
        result, eager, exact: an array, or arrays by name; None for a gradient that is not there. ``eager`` may
            be several runs, of which the worst counts: in a long chain of operations one rounding reaches every
            number behind it, so that a single run says little. Give the others inputs that are `nudged`.
        factor: how much worse than eager a result may be.
        floor: the little more, as a share of ``scale``: for arrays that eager gets right by luck. By default eight
            roundings of the type of ``result``.
        scale: the largest number that the arrays were computed from. By default that of each array of ``exact``. Where
            an array is zero but for rounding, give that of all arrays, see `largest`.

    Raises:
        AssertionError: names the array, its error, and what was allowed.
    """
    runs = [eager] if isinstance(eager, Tensor | Mapping) else eager
    ours, wanted, *plain = (x if isinstance(x, Mapping) else {"result": x} for x in (result, exact, *runs))
    assert all(run.keys() == wanted.keys() for run in (ours, *plain)), "results of different names"
    for name, value in wanted.items():
        found, others = ours[name], [run[name] for run in plain]
        if value is None or found is None:
            assert all(x is None for x in (value, found, *others)), f"{name}: some are None, others are not"
            continue
        for other in others:
            assert other is not None, f"{name}: some are None, others are not"
            assert found.dtype == other.dtype, f"{name}: {found.dtype}, of eager {other.dtype}"
            assert found.shape == other.shape == value.shape, f"{name}: {found.shape}, {other.shape}, {value.shape}"
        error, of_eager = distance(found, value), max(distance(other, value) for other in others)
        size = largest(value) if scale is None else scale
        share = 8 * torch.finfo(found.dtype).eps if floor is None else floor
        allowed = factor * of_eager + share * size
        # A NaN is in no order, so it fails.
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}; of eager {of_eager:.3g}"


def nudged(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Floating-point tensors that differ from ``tensors`` in the last bit: up, down or not at all."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.nextafter(x, x * torch.randint(0, 3, x.shape, generator=g).to(x)) if x.is_floating_point() else x
        for name, x in tensors.items()
    }


def distance(x: Tensor, exact: Tensor) -> float:
    """The largest absolute difference, 0 of empty arrays, NaN if either holds one."""
    return largest(x.double() - exact.double())


def largest(x: Tensor | Results) -> float:
    """The largest absolute number of an array, or of several by name."""
    if isinstance(x, Mapping):
        return max([0.0] + [largest(value) for value in x.values() if value is not None])
    return float(x.detach().abs().max()) if x.numel() else 0.0
