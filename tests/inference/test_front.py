"""``import vatt`` is light and has the public names; the spaces of the embeddings are those of the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vatt
from tests.inference.library_models import small_config
from tests.limits import HANG
from vatt.inference import output_name, spaces_of
from vatt.models import VATT

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
@pytest.mark.parametrize("head", ["fac", "joint"])
def test_dimensions_are_those_of_the_model(name, head):
    config = small_config(name, head)
    config.unified.d_post_proj = 20
    spec, model = config.input, VATT(config).eval()
    out = model(
        torch.zeros(1, spec.frames, spec.size, spec.size, 3),
        torch.zeros(1, spec.samples),
        torch.ones(1, spec.words, dtype=torch.int64),
    )
    for modality, spaces in spaces_of(config).items():
        for space, width in spaces.items():
            assert out[output_name(config, modality, space)].shape == (1, width)


@pytest.mark.slow
def test_public_names_come_without_waiting_for_torch():
    code = (
        "import sys, vatt; assert 'torch' not in sys.modules; assert set(vatt.__all__) <= set(dir(vatt)); "
        "names = {name: getattr(vatt, name) for name in vatt.__all__}; "
        "import vatt.models; assert issubclass(names['VATT'], vatt.models.VATT); "
        "assert 'sklearn' not in sys.modules and 'pyarrow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Vatt'"):
        _ = vatt.Vatt
