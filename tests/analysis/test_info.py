"""``vatt info``: figures of the real models, this machine, every operation."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.limits import HANG
from vatt.__main__ import main
from vatt.analysis.describe import parameters
from vatt.environment import environment
from vatt.kernels import operations
from vatt.kernels.registry import Problem
from vatt.kernels.selection import Decision, Selection, Verdict, cache
from vatt.models import VATT
from vatt.presets import PRESETS, preset


def test_json_holds_all_models_and_all_operations(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"].keys() == PRESETS.keys()
    base = found["models"]["vatt-base"]
    assert base["tokens"]["video"] == {"total": 1568, "kept": 784}
    assert base["config"]["video"]["num_layers"] == 12
    both = base["forward_flops"]
    assert both["inference"]["video"]["mlp"] > both["pretraining"]["video"]["mlp"]
    assert {row["op"] for row in found["kernels"]} == set(operations())
    for op in operations():
        assert sum(row["chosen"] for row in found["kernels"] if row["op"] == op) == 1
    assert found["environment"]["torch"] == torch.__version__


def test_what_was_measured_here_is_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VATT_CACHE", str(tmp_path))
    assert main(["info"]) == 0
    assert "Measured" not in capsys.readouterr().out
    problem = Problem("nce", torch.float32, (("candidates", (1, 5)), ("gradient", True), ("ranks", 2)), 64)
    verdicts = {"torch": Verdict("timed", 3.25), "triton": Verdict("failed", why="WrongResult: loss: error 0.5")}
    cache.save(torch.device("cpu"), Selection([Decision(problem, "torch", verdicts)]))
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    table = " ".join(out[out.index("Measured on this machine") :].split())
    assert str(tmp_path) in table.replace(" ", "")
    for words in ("nce", "64 x 2 clips, 1 and 5 rows each, float32", "torch 3.25 ms", "triton left out: WrongResult"):
        assert words in table, table
    assert main(["info", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["measured"]["decisions"]
    assert row["milliseconds"] == {"torch": 3.25}


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_parameters_are_those_of_the_model(name):
    config = preset(name)
    model, found = VATT(config), parameters(config)
    assert found["total"] == sum(p.numel() for p in model.parameters())
    assert found["words"] == next(p.numel() for key, p in model.named_parameters() if key.endswith("embedding.weight"))
    assert found["head"] == sum(p.numel() for p in model.head.parameters())


def test_published_sizes():
    """The paper gives its Transformers as Medium 155.0 M and Large 306.1 M parameters."""
    assert parameters(preset("vatt-medium"))["video"] == pytest.approx(155.0e6, rel=0.01)
    assert parameters(preset("vatt-large"))["video"] == pytest.approx(306.1e6, rel=0.01)


def test_tables_for_people(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS)
    assert "784 / 1568" in out
    assert "\x1b" not in out  # no colours outside a terminal
    assert all(len(line) <= 120 for line in out.splitlines())
    assert main(["info", "--model", "vatt-ma-tiny"]) == 0
    detail = capsys.readouterr().out
    assert "attention products" in detail
    assert "vatt-base" not in detail


def test_an_unknown_model_is_named(capsys):
    assert main(["info", "--model", "vatt-bse"]) == 1
    assert "did you mean 'vatt-base'?" in capsys.readouterr().err


@pytest.mark.slow
def test_environment_imports_no_heavy_package():
    """Versions come from metadata: importing DeepSpeed would probe compilers and devices."""
    code = (
        "import vatt.cli.info; from vatt.environment import environment; print(environment()['deepspeed']);"
        "sys.exit(bool({'deepspeed', 'triton', 'flash_attn', 'xformers'} & (set(sys.modules) - before)))"
    )
    before = "import sys, torch; before = set(sys.modules); "  # torch may load Triton by itself
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == environment()["deepspeed"]
