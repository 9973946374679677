"""The table of all models and phases agrees with the parts it is made of."""

from __future__ import annotations

import json

import pytest

from vatt.__main__ import main
from vatt.analysis.accounting import accounts
from vatt.analysis.describe import parameters
from vatt.analysis.flops import train_flops_per_sample
from vatt.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_phases(name):
    found = {(a.phase, a.input): a for a in accounts(name)}
    assert [phase for phase, _ in found] == ["pretraining", "fine-tuning", "fine-tuning", "inference"]
    pretraining, small, large, inference = found.values()
    assert pretraining.step == train_flops_per_sample(preset(name))
    assert pretraining.parameters == parameters(preset(name))["total"]
    assert inference.forward == 12 * large.forward
    assert large.forward > 1.3 * small.forward
    assert large.activations > 1.3 * small.activations
    assert large.tokens * 12 == inference.tokens
    assert 0 < small.parameters < pretraining.parameters
    for a in (pretraining, small, large):
        assert a.traffic > 2 * a.activations
    assert (inference.step, inference.activations) == (None, None)


def test_command(capsys):
    assert main(["accounting", "--model", "vatt-base"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    assert {line.count("|") for line in lines} == {10}
    assert "32x320x320 | 3,200 | 87.4" in lines[4]
    assert main(["accounting", "--model", "vatt-base", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert main(["accounting", "--published"]) == 0
    assert "9.09 TFLOPs" in capsys.readouterr().out
    assert main(["accounting", "--model", "vatt-bass"]) == 1
    assert "vatt-base" in capsys.readouterr().err
