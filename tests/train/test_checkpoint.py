"""Checkpoint folders: atomic, the last k, broken ones, models that do not fit."""

from __future__ import annotations

import json

import pytest
import torch

from train.core import checkpoint as module
from train.core.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_fits,
    load_latest,
    random_state,
    save,
    set_random_state,
    steps,
)


def make(step):
    return Checkpoint(step, {"w": torch.full((2, 3), float(step))}, {"step": torch.tensor(step)}, [random_state()], {})


def test_round_trip_keeps_the_newest(tmp_path):
    for step in (1, 2, 12):
        save(tmp_path, make(step), keep=2)
    assert [path.name for path in steps(tmp_path)] == ["step-00000002", "step-00000012"]
    found, complaints = load_latest(tmp_path)
    assert complaints == []
    assert found.step == 12
    assert torch.equal(found.model["w"], make(12).model["w"])


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, make(1), keep=1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-00000002: cannot write .*No space left"):
        save(tmp_path, make(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path):
    save(tmp_path, make(1), keep=3)
    partly = tmp_path / ".step-00000002.partly"
    partly.mkdir()
    (partly / "state.json").write_text("{}")
    (tmp_path / "step-00000003").mkdir()
    assert load_latest(tmp_path)[0].step == 1


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_broken_file_is_named_and_the_one_before_is_taken(tmp_path, name):
    save(tmp_path, make(1), keep=3)
    broken = save(tmp_path, make(2), keep=3) / name
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    found, complaints = load_latest(tmp_path)
    assert found.step == 1
    assert len(complaints) == 1
    assert str(broken) in complaints[0]


def test_nothing_is_unpickled(tmp_path):
    """A pickle in place of the tensors is refused, not run."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = save(tmp_path, make(1), keep=1)
    (path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    assert load_latest(tmp_path)[0] is None


def test_another_model_is_refused(tmp_path):
    checkpoint = make(1)
    check_fits(checkpoint, {"w": torch.Size([2, 3])}, tmp_path)
    with pytest.raises(CheckpointError, match=r"w has shape \(2, 3\), the model needs \(4, 3\)"):
        check_fits(checkpoint, {"w": torch.Size([4, 3])}, tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks \['v'\] and has \['w'\]"):
        check_fits(checkpoint, {"v": torch.Size([2, 3])}, tmp_path)


def test_random_state_survives_json():
    torch.manual_seed(5)
    state = json.loads(json.dumps(random_state()))
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)
