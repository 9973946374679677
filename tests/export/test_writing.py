"""What ``vatt export`` does around an export: what it refuses before minutes of work, what it says, and which files are
there if it is killed or the disk is full. The exporters, which take seconds, are replaced by a few bytes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.file_operations import full_at, killed_at
from tests.inference.library_models import media, save_classifier, save_model
from vatt.__main__ import main
from vatt.data.tokenizer import TextError
from vatt.export import ExportError, export_part, job
from vatt.export.job import fourier_matrix, translations
from vatt.inference import VATT, load_pretrained


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writing")
    save_model(folder / "model")
    save_classifier(folder / "classifier")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Nothing is traced; the file holds ``quick.content``, and gives what the model does."""

    class Quick:
        content = b"new"
        part = None

        def trace(self, part, x):
            self.part = part

        def write(self, program, *arguments):
            next(a for a in arguments if hasattr(a, "open")).write_bytes(self.content)

        def run(self, x):
            return [y.numpy() for y in self.part(x)]

    quick = Quick()
    monkeypatch.setattr(job, "trace", quick.trace)
    monkeypatch.setattr(job, "write_onnx", quick.write)
    monkeypatch.setattr(job, "write_torch", quick.write)
    monkeypatch.setattr(job, "onnx_runner", lambda path, name: quick.run)
    monkeypatch.setattr(job, "torch_runner", lambda path: quick.run)
    monkeypatch.setattr(job, "_need_packages", lambda: None)
    return quick


def export(models, out, **options):
    return export_part(models / "model", "text", out, **options)


def test_a_file_that_is_there_is_written_anew_by_force_alone(models, quick, tmp_path, capsys):
    out, words = tmp_path / "text.onnx", tmp_path / "text.tokenizer.json"
    command = ["export", str(models / "model"), "--part", "text", "--out", str(out)]
    assert main(command) == 0
    quick.content = b"newer"
    capsys.readouterr()
    assert main(command) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: out: {out}: is there already; --force writes it anew"
    assert out.read_bytes() == b"new"
    assert main([*command, "--force"]) == 0
    assert out.read_bytes() == b"newer"
    out.unlink()
    assert main(command) == 0  # the same words are beside it
    out.unlink()
    words.write_text("of another model")
    assert main(command) == 1
    assert f"out: {words}: is there already, with other words; --force" in capsys.readouterr().err
    for other, told in ((tmp_path / "gone" / "x.onnx", "no such folder"), (tmp_path / "d.onnx", "is a folder")):
        (tmp_path / "d.onnx").mkdir(exist_ok=True)
        with pytest.raises(ExportError, match=f"out: {other}: {told}"):
            export(models, other, force=True)


def test_it_says_what_it_does_and_about_how_long_that_takes(models, quick, tmp_path, capsys):
    assert main(["export", str(models / "model"), "--part", "text", "--out", str(tmp_path / "t.onnx")]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in told] == ["loading", "tracing", "writing", "comparing"]
    assert all("about 10 seconds" in line for line in told[1:])


def test_a_kill_leaves_the_old_file_or_the_new_one(models, quick, tmp_path):
    out = tmp_path / "text.onnx"
    export(models, out)
    quick.content, number = b"newer", 0
    while killed_at(number, lambda: export(models, out, force=True)):
        assert out.read_bytes() in (b"new", b"newer")
        number += 1
    assert number > 3
    assert out.read_bytes() == b"newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.onnx", "text.tokenizer.json"]


def test_the_words_and_the_file_are_renamed_one_after_the_other(models, quick, tmp_path):
    out, words, states, killed = tmp_path / "text.onnx", tmp_path / "text.tokenizer.json", [], True
    while killed:
        out.write_bytes(b"old")
        words.write_bytes(b"old")
        killed = killed_at(len(states), lambda: export(models, out, force=True))
        states.append((words.read_bytes() != b"old", out.read_bytes() != b"old"))
    assert states == sorted(states)
    assert states.count((True, False)) == 1  # killed between the two
    assert states.count((True, True)) == 1  # not killed
    full = []
    while len(full) < 10:
        out.write_bytes(b"old")
        words.write_bytes(b"old")
        if not full_at(len(full), lambda: export(models, out, force=True), ExportError):
            break
        full.append((words.read_bytes(), out.read_bytes()))
    assert len(full) > 1
    assert set(full) == {(b"old", b"old")}


def test_a_full_disk_is_told_and_leaves_the_old_file(models, quick, tmp_path):
    out = tmp_path / "text.onnx"
    export(models, out)
    quick.content, number = b"newer", 0
    while error := full_at(number, lambda: export(models, out, force=True), ExportError):
        assert "cannot be written: No space left on device" in str(error)
        assert str(tmp_path) in str(error)
        assert out.read_bytes() == b"new"
        number += 1
    assert number > 1
    assert out.read_bytes() == b"newer"


def test_a_full_disk_under_the_writer_of_torch(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from OSError(28, "full")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="full"):
        job.write_torch(None, {}, tmp_path / "x.pt2")


def test_what_is_too_large_for_one_onnx_file_is_refused_before_it_is_traced(models, quick, tmp_path, monkeypatch):
    size = sum(4 * x.numel() for x in load_pretrained(models / "model").text.parameters())
    monkeypatch.setattr(job, "_MOST_BYTES", size // 2)
    monkeypatch.setattr(job, "trace", None)
    with pytest.raises(ExportError, match=r"text: 0\.0 GB of weights do not fit into one ONNX file .2 GB.*--to torch"):
        export(models, tmp_path / "x.onnx")
    monkeypatch.setattr(job, "trace", quick.trace)
    export(models, tmp_path / "x.pt2", to="torch")
    monkeypatch.setattr(job, "_MOST_BYTES", 2 * size)  # the other parts do not count
    export(models, tmp_path / "y.onnx")


def broken(source, folder, name, value):
    """A model with one value in a tensor, without the checksum that would tell of it."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors")
    for other in ("config.json", "tokenizer.json"):
        if (source / other).exists():
            (folder / other).write_bytes((source / other).read_bytes())
    return str(folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name_by_every_command(models, tmp_path, value, capsys):
    name = next(name for name in load_file(models / "model" / "model.safetensors") if name.endswith("weight"))
    model = broken(models / "model", tmp_path / "broken", name, value)
    media(tmp_path / "films", 1, 2.0)
    out = str(tmp_path / "out")
    for command in (
        ("export", model, "--part", "text", "--to", "torch", "--out", str(tmp_path / "x.pt2")),
        ("push", model, "me/tiny", "--license", "mit", "--dry-run", "--out", out),
        ("embed", str(tmp_path / "films"), "--model", model, "--out", f"{out}.npy"),
        ("index", str(tmp_path / "films"), "--model", model, "--out", out),
    ):
        assert main(list(command)) == 1, command
        error = capsys.readouterr().err
        assert "model.safetensors" in error, command
        assert name in error, command


def test_a_model_that_gives_what_is_no_number_is_refused_by_the_name_of_its_layer(models, tmp_path, capsys):
    names = load_file(models / "model" / "model.safetensors")
    name = next(n for n, x in names.items() if n.startswith("text.") and x.ndim == 2 and n.endswith("weight"))
    model = broken(models / "model", tmp_path / "huge", name, 3e38)
    assert main(["export", model, "--part", "text", "--to", "torch", "--out", str(tmp_path / "x.pt2")]) == 1
    error = capsys.readouterr().err
    assert "text: the model gives values in to_video that are not finite, from text." in error
    assert not list(tmp_path.glob("*.pt2"))
    assert main(["push", model, "me/tiny", "--license", "mit", "--dry-run"]) == 1
    assert "text: the model gives values in to_video that are not finite, from text." in capsys.readouterr().err
    with pytest.raises(TextError, match="item 0: the model gives values that are not finite"):
        VATT.from_pretrained(model).embed_text("a red star")


def test_the_matrix_of_a_fourier_transform():
    x = np.random.default_rng(0).standard_normal((3, 341)).astype(np.float32)
    found = (x @ fourier_matrix(341)).reshape(3, 171, 2)
    expected = np.fft.rfft(x.astype(np.float64))
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, atol=1e-4)


def transform(length):
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, length)
    graph.output(graph.call_function(torch.ops.aten.fft_rfft.default, (x,)))
    return torch.fx.GraphModule({}, graph)


@pytest.mark.parametrize(("length", "other"), [(512, True), (341, False)])
def test_the_transform_is_found_in_blocks_within_a_program(length, other):
    outer = torch.nn.Sequential(transform(256), transform(length))
    assert (translations(SimpleNamespace(graph_module=outer)) is None) == other
