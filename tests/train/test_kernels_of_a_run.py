"""A run checks and chooses its kernels before its first step, and refuses one that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.limits import HANG
from tests.train.pretraining import environment, losses, words_of
from tests.train.ranks import ROOT, run_ranks
from train.core import kernels
from train.core.run_folder import RunFolder

# The planted backend comes first in the order, as a kernel of ours would on a GPU.
PLANTED = """
import runpy, sys
from tests.kernels.planted import plant
from vatt.kernels.attention import external
plant("wrong", first=True)
external.DISPATCH_ORDER.update(dict.fromkeys(external.DISPATCH_ORDER, ("planted wrong", "torch", "sdpa")))
sys.argv = ["train/pretrain.py", *sys.argv[1:]]
runpy.run_path("train/pretrain.py", run_name="__main__")
"""


def start(cache, *words):
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, *map(str, words)],
        cwd=ROOT,
        env=environment() | {"VATT_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wrong_kernel_is_refused_at_the_start_of_a_run(sample, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    new = ["run.steps=2", "run.save_every=1"]
    said = start(cache, *words_of(sample, out, *new, "engine.kernels=measured"))
    assert "warning: kernels: packed_attention: planted wrong is left out: " in said
    assert "WrongResult: output" in said
    (line,) = [line for line in said.splitlines() if line.startswith("attention: ")]
    assert "planted" not in line
    assert "sdpa" in line
    assert "layer_norm: " in said
    facts = json.loads((out / "environment.json").read_text())
    assert " ms" in facts["measured attention"]
    rows = json.loads((out / "kernels.json").read_text())["decisions"]
    assert not any(row["backend"].startswith("planted") for row in rows)
    attention = [row for row in rows if row["op"] == "packed_attention"]
    assert len(attention) == 3  # video, sound, text
    assert all(row["verdicts"]["planted wrong"]["state"] == "failed" for row in attention)
    assert len(list(cache.iterdir())) == 1

    # Without the check nothing speaks against it, and the losses are others.
    free = tmp_path / "free"
    said = start(cache, *words_of(sample, free, *new, "engine.kernels=unmeasured"))
    assert "planted wrong (packed_attention)" in said
    assert "left out" not in said
    assert losses(free) != losses(out)

    # Going on takes the choice of the run, though the cache is gone and another might be faster now.
    rows = json.loads((out / "kernels.json").read_text())
    for row in rows["decisions"]:
        if row["op"] == "packed_attention":
            row["backend"] = "torch"
    (out / "kernels.json").write_text(json.dumps(rows))
    start(tmp_path / "empty", "--out", out, "--resume", "run.steps=3")
    again = json.loads((out / "kernels.json").read_text())["decisions"]
    assert {row["backend"] for row in again if row["op"] == "packed_attention"} == {"torch"}
    assert len(losses(out)) == 3


@pytest.mark.parametrize("content", ["{}", '{"about": {}, "decisions": []}', "cut sho"])
def test_a_choice_that_a_resumed_run_cannot_keep_is_told(content, tmp_path, monkeypatch):
    monkeypatch.setenv("VATT_CACHE", str(tmp_path / "cache"))
    folder, said = RunFolder(tmp_path), []
    folder.kernels.write_text(content)
    context, reporter = SimpleNamespace(device=torch.device("cpu")), SimpleNamespace(warn=said.append)
    assert kernels._choose([], context, folder, reporter, resume=True).decisions == []
    (warning,) = said
    assert warning.startswith(f"{folder.kernels}: ")
    assert warning.endswith("kernels are chosen anew, so losses may differ by rounding")


@pytest.mark.slow
def test_every_call_of_a_step_was_decided_and_ranks_agree(sample, tmp_path):
    script = PLANTED.replace(
        'plant("wrong", first=True)',
        """
from vatt.kernels import registry
inner = registry._decided
def counting(op, call):
    found = inner(op, call)
    if dict(call.facts).get("gradient"):
        print("decided" if found else f"NOT decided {op} {call}", flush=True)
    return found
registry._decided = counting
""",
    ).replace("external.DISPATCH_ORDER.update", "dict")
    path = tmp_path / "start.py"
    path.write_text(script)
    words = words_of(sample, tmp_path / "run", "run.steps=1", "engine.kernels=measured", "engine.precision=bf16")
    said = "".join(run_ranks(2, str(path), *map(str, words), VATT_CACHE=str(tmp_path / "cache")))
    assert "NOT decided" not in said
    assert said.count("decided") > 20
    assert sum(line.startswith("attention: ") for line in said.splitlines()) == 1
