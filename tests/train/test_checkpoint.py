"""Checkpoint folders: kills and full disks anywhere in a save, the last k, damage of every kind, models that do not
fit, formats."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.file_operations import full_at, killed_at
from train.core.checkpoint import (
    Checkpoint,
    CheckpointError,
    OtherFormat,
    check_fits,
    load,
    load_latest,
    random_state,
    save,
    set_aside,
    set_random_state,
    steps,
)
from vatt import files
from vatt.weights.tensors import NotFiniteTensor, Spec, Tensors

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody waits for a disk here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def make(step, value=None):
    model = {"w": torch.full((2, 3), float(step if value is None else value)), "seen": torch.tensor(step)}
    optimizer = {"step": torch.tensor(step), "w.exp_avg": torch.full((2, 3), step / 2)}
    counts, pending = {"skipped_steps": 0}, {"loss": [1.0, math.nan]}
    return Checkpoint(step, Tensors.of(model), Tensors.of(optimizer), [random_state()], counts, pending)


def step_of(folder):
    """Of the newest checkpoint that can be read, once all of it is what was written; and what is said of others."""
    found, complaints = load_latest(folder)
    if found is None:
        return None, complaints
    assert torch.equal(found.model["w"], torch.full((2, 3), float(found.step)))
    assert torch.equal(found.model["seen"], torch.tensor(found.step))
    assert torch.equal(found.optimizer["w.exp_avg"], torch.full((2, 3), found.step / 2))
    assert found.counts == {"skipped_steps": 0}
    assert found.random[0].keys() == random_state().keys()
    return found.step, complaints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_keeps_the_newest(tmp_path):
    for step in (1, 2, 12, 100_000_000):
        save(tmp_path, make(step), keep=2)
    assert names(tmp_path) == ["step-00000012", "step-100000000"]
    assert [path.name for path in steps(tmp_path)] == names(tmp_path)
    assert step_of(tmp_path) == (100_000_000, [])


@pytest.mark.parametrize(("there", "exchange"), [(False, True), (True, True), (True, False)])
def test_a_kill_at_any_file_operation_loses_nothing(tmp_path, monkeypatch, there, exchange):
    """With keep=1, also where a damaged checkpoint of the same step is there, and where the file system cannot exchange
    two names."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    before, came = set(), 0
    save(tmp_path / "template", make(1), keep=1)
    for number in count():
        folder = shutil.copytree(tmp_path / "template", tmp_path / str(number))
        if there:
            (folder / "step-00000002").mkdir()
            (folder / "step-00000002" / "state.json").write_text("{}")
        if not killed_at(number, lambda folder=folder: save(folder, make(2), keep=1)):
            break
        step, complaints = step_of(folder)
        assert step in (1, 2), f"operation {number}"
        assert len(complaints) == (there and (folder / "step-00000002").is_dir() and step == 1)
        before.add(step)
        came += 1
        save(folder, make(3), keep=1)  # which removes what the killed one left
        assert names(folder) == ["step-00000003"]
    assert before == {1, 2}
    assert came > 20
    assert (step_of(folder), names(folder)) == ((2, []), ["step-00000002"])


def test_a_full_disk_at_any_operation_leaves_what_was_there(tmp_path):
    for number in count():
        folder = tmp_path / str(number)
        save(folder, make(1), keep=1)
        error = full_at(number, lambda folder=folder: save(folder, make(2), keep=1), CheckpointError)
        if error is None:
            break
        wanted = "step-00000002: cannot write the checkpoint of 6.4e-08 GB: [Errno 28] No space left on device"
        last = names(folder)[-1]  # the new one, where no more than its name is not on the disk
        assert str(error).endswith(f"{wanted}; {last} stays")
        assert step_of(folder) == (int(last[-1]), [])
    assert number > 10
    assert names(folder) == ["step-00000002"]


def test_files_have_the_modes_of_the_umask(tmp_path):
    path = save(tmp_path, make(1), keep=1)
    usual = tmp_path / "usual"
    usual.touch()
    assert {file.stat().st_mode for file in path.iterdir()} == {usual.stat().st_mode}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value):
    save(tmp_path, make(1), keep=1)
    with pytest.raises(NotFiniteTensor, match=r"w holds values that are not finite \(6 of 6\)"):
        save(tmp_path, make(2, value), keep=1)
    broken = make(2)
    broken.optimizer = Tensors.of({"step": torch.tensor(2), "w.exp_avg": torch.tensor([1.0, value])})
    with pytest.raises(NotFiniteTensor, match=r"w.exp_avg holds values that are not finite \(1 of 2\)"):
        save(tmp_path, broken, keep=1)
    assert names(tmp_path) == ["step-00000001"]


def test_after_falling_back_the_damaged_one_does_not_count(tmp_path):
    """It would push out the ones that the run writes on its new way to that step."""
    for step in (3, 6):
        save(tmp_path, make(step), keep=1 + (step == 6))
    (tmp_path / "step-00000006" / "model.safetensors").unlink()
    assert step_of(tmp_path)[0] == 3
    save(tmp_path, make(4), keep=1)
    assert step_of(tmp_path)[0] == 4
    assert set_aside(tmp_path, 4) == ["damaged-step-00000006"]
    save(tmp_path, make(6), keep=1)
    assert names(tmp_path) == ["damaged-step-00000006", "step-00000006"]
    assert set_aside(tmp_path, 4) == ["damaged-step-00000006"]
    assert names(tmp_path) == ["damaged-step-00000006"]


def flipped(content, place):
    return content[: place // 8] + bytes([content[place // 8] ^ 1 << place % 8]) + content[place // 8 + 1 :]


def damages(content):
    """Contents that a file is left with."""
    draw = random.Random(len(content))
    places = [0, 9, 70, *(draw.randrange(8 * len(content)) for _ in range(12)), 8 * len(content) - 1]
    yield from (flipped(content, place) for place in places)
    yield from (content[:length] for length in (0, 1, 7, 8, 9, len(content) // 2, len(content) - 1))
    yield from (content[:start] + bytes(16) + content[start + 16 :] for start in (0, 8, 200, len(content) - 16))
    yield content + b"\0"
    yield bytes(len(content))
    yield draw.randbytes(len(content))


def states(state):
    """Contents of a state.json that is not what was written, with or without a checksum over it."""
    yield from ("", "null", "[]", '"', "{}", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "\ud800", "NaN", "{}{}")
    for name in ("format", "step", "random", "counts", "pending"):
        yield json.dumps({key: value for key, value in state.items() if key != name})
        for wrong in (None, "1", -1, 1.5, math.nan, 10**30, [], {}, [None], [{"cpu": "zz"}], {"a": "b"}, True):
            if (name, wrong) != ("pending", {}):  # as right after a record
                yield json.dumps({**state, name: wrong})
    yield json.dumps({**state, "step": 1})
    yield json.dumps({**state, "random": [{"cpu": "00"}]})
    yield json.dumps({**state, "counts": {"skipped_steps": 0.5}})
    yield json.dumps({**state, "pending": {"loss": [1e400, 10**400]}})
    yield json.dumps(state).replace('"step": 2', '"step": ' + "2" * 5000)


@pytest.mark.parametrize("name", FILES)
def test_damage_of_every_kind_is_named_and_the_one_before_is_taken(tmp_path, name):
    save(tmp_path, make(1), keep=3)
    file = save(tmp_path, make(2), keep=3) / name
    whole = file.read_bytes()
    other = (file.parents[1] / "step-00000001" / name).read_bytes()
    swapped = (file.parent / FILES[FILES.index(name) - 1]).read_bytes()
    texts = [text.encode(errors="surrogatepass") for text in states(json.loads(whole))] if name == FILES[2] else []
    for content in (*damages(whole), other, swapped, *texts):
        file.write_bytes(content)
        step, complaints = step_of(tmp_path)
        if step == 1:
            assert len(complaints) == 1
            assert complaints[0].startswith(f"{file}: ")
            assert len(complaints[0]) < len(str(file)) + 300
        else:  # a blank of the JSON has become another one
            assert json.loads(content) == json.loads(whole)
    file.unlink()
    assert step_of(tmp_path) == (1, [f"{file}: cannot be read: No such file or directory"])
    file.mkdir()
    assert step_of(tmp_path)[1] == [f"{file}: cannot be read: Is a directory"]


def test_a_checkpoint_under_the_name_of_another_is_refused(tmp_path):
    save(tmp_path, make(1), keep=3)
    save(tmp_path, make(2), keep=3).rename(tmp_path / "step-00000003")
    step, complaints = step_of(tmp_path)
    assert step == 1
    assert complaints[0].endswith("step-00000003/state.json: is that of step 2")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000004")
    shutil.copy(tmp_path / "step-00000003" / "state.json", tmp_path / "step-00000004")
    (tmp_path / "step-00000004").rename(tmp_path / "step-00000002")
    shutil.rmtree(tmp_path / "step-00000003")
    assert step_of(tmp_path)[1][0].endswith("step-00000002/model.safetensors: is that of step 1")


def test_all_ranks_take_one_that_each_can_read(tmp_path):
    for step in (1, 2):
        save(tmp_path, make(step), keep=3)

    def everywhere(item):  # the other rank has trouble with step 2
        return [item, None if isinstance(item, list) or not others else others.pop()]

    others = [None, "b: step 2 cannot be read"]
    found, complaints = load_latest(tmp_path, everywhere)
    assert (found.step, complaints) == (1, ["b: step 2 cannot be read"])


def write_format_1(folder, step, value=None):
    """As it was written before there were checksums."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    now = make(step, value)
    save_file(dict(now.model), path / "model.safetensors")
    save_file(dict(now.optimizer), path / "optimizer.safetensors")
    state = {"format": 1, "step": step, "random": now.random, "counts": now.counts, "pending": now.pending}
    (path / "state.json").write_text(json.dumps({**state, "torch": torch.__version__}))
    return path


def test_checkpoints_without_checksums_load(tmp_path):
    write_format_1(tmp_path, 1)
    assert step_of(tmp_path) == (1, [])
    assert load_latest(tmp_path)[0].unchecked
    save(tmp_path, make(2), keep=3)
    assert step_of(tmp_path) == (2, [])
    assert not load_latest(tmp_path)[0].unchecked


def test_of_them_too_what_is_damaged_or_not_finite_is_named(tmp_path):
    write_format_1(tmp_path, 1)
    path = write_format_1(tmp_path, 2, math.nan)
    step, complaints = step_of(tmp_path)
    assert step == 1
    assert complaints == [f"{path}/model.safetensors: w holds values that are not finite (6 of 6)"]
    shutil.rmtree(path)
    file = write_format_1(tmp_path, 2) / "state.json"
    for text in states(json.loads(file.read_text())):
        file.write_bytes(text.encode(errors="surrogatepass"))
        step, complaints = step_of(tmp_path)
        assert step == 1, text[:100]
        assert complaints[0].startswith(f"{file}: ")
    path = write_format_1(tmp_path, 3)
    for optimizer in ({"w.exp_avg": torch.ones(1)}, {"step": torch.tensor(4)}, {"step": torch.ones(2)}):
        save_file(optimizer, path / "optimizer.safetensors")
        with pytest.raises(CheckpointError, match=r"optimizer.safetensors: (holds no number of|4) updates"):
            load(path)


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path, monkeypatch):
    save(tmp_path, make(1), keep=3)
    monkeypatch.setattr("train.core.checkpoint.FORMAT", 3)
    save(tmp_path, make(2), keep=3)
    monkeypatch.undo()
    with pytest.raises(OtherFormat, match=r"state.json: is of format 3, this version reads 1 and 2"):
        load_latest(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    """A pickle in place of the tensors is refused, not run."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = save(tmp_path, make(1), keep=1)
    (path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    assert load_latest(tmp_path)[0] is None


def test_another_model_or_optimizer_is_refused(tmp_path):
    checkpoint = load(save(tmp_path, make(1), keep=1))
    model = {"w": Spec(torch.float32, torch.Size([2, 3])), "seen": Spec(torch.int64, torch.Size())}
    optimizer = {"step": model["seen"], "w.exp_avg": model["w"]}
    check_fits(checkpoint, model, optimizer, tmp_path)
    wide, half = Spec(torch.float32, torch.Size([4, 3])), Spec(torch.float16, torch.Size([2, 3]))
    for changed, moments, message in (
        ({"w": wide}, {}, r"w has shape \(2, 3\), the model needs \(4, 3\)"),
        ({"w": half}, {}, r"w is torch.float32, the model needs torch.float16"),
        ({"v": wide}, {}, r"is of another model: it lacks \['v'\] and has \[\]"),
        ({}, {"w.exp_avg": wide}, r"w.exp_avg has shape \(2, 3\), the optimizer needs \(4, 3\)"),
        ({}, {"w.velocity": wide}, r"is of another optimizer, .* it lacks \['w.velocity'\]"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_fits(checkpoint, model | changed, optimizer | moments, tmp_path)


def test_any_reader_of_safetensors_reads_the_tensors(tmp_path):
    path = save(tmp_path, make(5), keep=1)
    assert load_file(path / "model.safetensors")["w"].tolist() == [[5.0] * 3] * 2


def test_random_state_survives_json():
    torch.manual_seed(5)
    state = json.loads(json.dumps(random_state()))
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)
