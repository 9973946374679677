"""Every preset, without memory: parameter counts and the paper's table."""

from __future__ import annotations

import pytest
import torch

from vatt.config import ConfigError, override
from vatt.models import Classifier, VideoBackbone
from vatt.models.config import VideoConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import PRESETS, SIZES, preset


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name):
    with torch.device("meta"):
        model = Pretraining(preset(name))
    assert millions(model) > 1


# PAPER.md, Pretraining: the table of sizes. They are those of a video ViT with a classifier of 600 classes (Kinetics).
PAPER = {"small": 20.9, "base": 87.9, "medium": 155.0, "large": 306.1}


def paper_size(size):
    with torch.device("meta"):
        return millions(Classifier(VideoBackbone(VideoConfig(**SIZES[size])), 600))


@pytest.mark.parametrize("size", PAPER)
def test_backbones_have_the_parameters_of_the_paper(size):
    assert paper_size(size) == pytest.approx(PAPER[size], rel=5e-3)


@pytest.mark.parametrize(("size", "total"), [("base", 197), ("medium", 264), ("large", 415)])
def test_whole_models_have_the_parameters_of_the_paper(size, total):
    """The paper's totals are the sums of its table, with a ViT counted for every backbone.

    Ours, without the (frozen) word table, is smaller by the parts of a ViT that audio and text do not have.
    """
    assert paper_size(size) + paper_size("base") + paper_size("small") == pytest.approx(total, rel=0.01)
    with torch.device("meta"):
        vatt = Pretraining(preset(f"vatt-{size}")).vatt
    own = millions(vatt) - millions(vatt.text.embedding)
    assert own == pytest.approx(total, rel=0.02)


def test_presets_share_nothing():
    for name in PRESETS:
        changed = preset(name)
        changed.input.size += 16
        assert preset(name).input.size == changed.input.size - 16


@pytest.mark.parametrize("field", ["dropout_rate", "position_dropout_rate"])
def test_rates_that_are_no_share_are_refused_with_their_place(field):
    for rate in ("1.5", "-0.1", "1.0"):
        with pytest.raises(ConfigError, match=rf"^text\.{field}: expected float from 0 to 0\.99, got {rate}"):
            override(preset("vatt-tiny"), [f"text.{field}={rate}"])
