"""The published figures, the conventions that give them, and PyTorch's own count on real sizes."""

from __future__ import annotations

import pytest

from tests.analysis.flop_counter import count_flops
from vatt.analysis.flops import forward_flops
from vatt.analysis.published import figures, published_convention
from vatt.cli.accounting import published_table
from vatt.presets import preset


def test_all_published_figures_are_met():
    found = list(figures())
    assert len(found) == 4 + 4 + 6 + 4 + 4
    for figure in found:
        limit = 0.01 if "parameters" in figure.what else 0.02
        assert abs(figure.off) < limit, figure
    assert len(list(published_table(found))) == 2 + len(found)


def test_the_convention_matters():
    """Without it most rows are missed, so a wrong convention would show."""
    config = preset("vatt-medium")
    whole = forward_flops(config, training=False)["video"]
    assert published_convention(whole) < 0.92 * whole.total
    every = forward_flops(config, project_all=True)["video"]
    kept = forward_flops(config)["video"]
    assert every.patch - kept.patch == 2 * 784 * 1024 * 4 * 16 * 16 * 3
    assert every.mlp == kept.mlp
    # the projection D -> D of VATT-MA sees kept tokens alone
    both = (forward_flops(preset("vatt-ma-medium"), project_all=every)["video"] for every in (True, False))
    assert next(both).patch - next(both).patch == 2 * 784 * 1024 * 4 * 16 * 16 * 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["vatt-base", "vatt-ma-medium"])
def test_operations_of_a_real_size_as_pytorch_counts_them(name, training):
    config = preset(name)
    assert sum(part.total for part in forward_flops(config, training).values()) == count_flops(config, training)
