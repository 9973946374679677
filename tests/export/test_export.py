"""Parts of models as ONNX and as programs of torch.export, against the models.

Tracing a part and writing it as ONNX takes some seconds, however small it is. So the suite writes two texts; with
VATT_LONG_EXPORT_TESTS=1 it writes each part of each kind of model.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.inference.library_models import save_classifier, save_model, small_config
from vatt.__main__ import main
from vatt.export import ExportError, example_input, export_part, part_of
from vatt.export.job import _refusal, compare, trace, write_onnx
from vatt.extras import install
from vatt.inference import VATT, Classifier, load_pretrained
from vatt.models.sound import log_mel_shape
from vatt.presets import preset
from vatt.weights.tensorflow.convert import convert

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference"
long = pytest.mark.skipif(
    not os.environ.get("VATT_LONG_EXPORT_TESTS"), reason="each writes a file in seconds; VATT_LONG_EXPORT_TESTS=1"
)
onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason=f"needs onnx, onnxscript and onnxruntime: {install('export')}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained model and classifiers, and the text of the model as ONNX, written by the command."""
    folder = tmp_path_factory.mktemp("export")
    save_model(folder / "model")
    save_classifier(folder / "classifier")
    save_classifier(folder / "sounds", "audio", labels="multi")
    return folder


@pytest.fixture(scope="module")
def text(folder):
    assert main(["export", str(folder / "model"), "--part", "text", "--out", str(folder / "text.onnx")]) == 0
    return folder / "text.onnx"


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@onnx
@pytest.mark.slow
def test_text_as_onnx_gives_what_the_library_gives(folder, text):
    model = VATT.from_pretrained(folder / "model")
    sentences = ["a red star", "the blue circle moves left", "star"]
    ids = model.tokenizer.encode(sentences, model.config.input.words)
    for rows in (1, 3):
        found, features = session(text).run(None, {"text": ids[:rows]})
        expected = model.embed_text(sentences[:rows], space="video").numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(features, model.embed_text(sentences[:rows], space="features").numpy(), atol=1e-3)
    about = json.loads(session(text).get_modelmeta().custom_metadata_map["vatt"])
    words = folder / "text.tokenizer.json"
    assert words.read_bytes() == (folder / "model" / "tokenizer.json").read_bytes()
    assert about["input"]["tokenizer_sha256"] == hashlib.sha256(words.read_bytes()).hexdigest()
    assert (about["part"], about["outputs"], about["normalised"]) == ("text", ["to_video", "features"], True)
    assert about["input"]["shape"] == ["batch", 6]


@onnx
@pytest.mark.slow
def test_the_example_serves_text_without_torch(folder, text):
    probe = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(sorted({'torch', 'vatt', 'onnx'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", probe, str(ROOT / "examples" / "onnx_text.py"), str(text), "a red star", "a cat"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, timeout=600)
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert modules == "[]"
    rows = [json.loads(line) for line in lines]
    model = VATT.from_pretrained(folder / "model")
    np.testing.assert_allclose([row["embedding"] for row in rows], model.embed_text(["a red star", "a cat"]), atol=1e-4)
    assert [row["text"] for row in rows] == ["a red star", "a cat"]
    served = runpy.run_path(str(ROOT / "examples" / "onnx_text.py"))["Text"](text)
    for sentences, told in (([], "no sentence"), (["star", "xyzzy"], "'xyzzy' holds no word"), ([""], "'' holds no")):
        with pytest.raises(ValueError, match=told):  # a batch of no rows would end the process inside onnxruntime
            served.embed(sentences)


@pytest.mark.slow
def test_a_program_of_torch(tmp_path):
    save_model(tmp_path / "model", variants("vatt-tiny", text__kind="linear"))  # the quickest to trace
    done = export_part(tmp_path / "model", "text", tmp_path / "x.pt2", to="torch", normalised=False)
    assert max(done.differences.values()) <= 1e-5
    extra = {"vatt.json": ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    about = json.loads(extra["vatt.json"])
    assert (about["input"]["words"], about["normalised"]) == (6, False)
    assert sum(x.numel() for x in program.state_dict.values()) < 4000  # of 71,476: nothing of the other parts
    x = torch.randint(0, 40, (3, 6))
    model = VATT.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x)[0], model(text=x)["text/tovid"], atol=1e-4, rtol=1e-4)


def variants(name, **changes):
    config = small_config(name)
    for dotted, value in changes.items():
        section, _, field = dotted.partition("__")
        setattr(getattr(config, section) if field else config, field or section, value)
    if config.audio_input == "spectrogram":
        steps, _ = log_mel_shape(config.input, config.spectrogram)
        config.spectrogram.max_temporal_buckets = steps // config.spectrogram.temporal_patch_size
    return config


def convolutional():
    config = preset("mmv-tiny")
    config.input.frames, config.input.size, config.input.words = 4, 32, 6
    config.text.vocab_size = 40
    return config


def test_refused_before_anything_is_traced(folder, capsys, monkeypatch):
    for arguments, told in [
        (("classifier", "--part", "audio"), "part: the classifier reads video, not audio"),
        (("model", "--part", "text", "--pixels", "float32"), "input: only video comes as uint8 or as float32"),
        (("model", "--part", "text", "--out", "x.txt"), "out: x.txt: the name of a file for torch ends in .pt2"),
        (("model", "--part", "text", "--opset", "0"), "opset: from 1 to 100, got 0"),
        (("gone", "--part", "text"), "no such folder with a model.safetensors"),
    ]:
        assert main(["export", str(folder / arguments[0]), *arguments[1:], "--to", "torch"]) == 1
        assert told in capsys.readouterr().err
    monkeypatch.setattr("vatt.export.job.find_spec", lambda name: None)
    assert main(["export", str(folder / "model"), "--part", "text"]) == 1
    assert capsys.readouterr().err == f"error: --to onnx: needs the package onnx: {install('export')}\n"
    assert not list(Path().glob("*.onnx"))


def test_what_differs_from_the_model_is_refused(folder):
    part = part_of(load_pretrained(folder / "model", "torch"), "text")

    def run(x, change=1e-3):
        return [y.numpy() + change for y in part(x)]

    compare(part, lambda x: run(x, 1e-6), False, Path("f.onnx"))
    with pytest.raises(ExportError, match=r"f.onnx: to_video differs from the model's by 0.001 on random input"):
        compare(part, run, False, Path("f.onnx"))
    with pytest.raises(ExportError, match=r"to_video differs from the model's by nan"):
        compare(part, lambda x: run(x, float("nan")), False, Path("f.onnx"))
    with pytest.raises(ExportError, match=r"to_video has the shape \(2, 8\), the model's is \(1, 8\)"):
        compare(part, lambda x: [y.numpy().repeat(2, 0) for y in part(x)], False, Path("f.onnx"))


def others(modality):
    return {"video", "audio", "text"} - {modality}


def test_a_part_stores_its_constants_and_nothing_of_other_parts(folder):
    """No other program makes positions and biases; the outputs stay as they are."""
    for name, modality in (("model", "text"), ("model", "video"), ("sounds", "audio")):
        model = load_pretrained(folder / name, "torch")
        part = part_of(load_pretrained(folder / name, "torch"), modality)
        assert "_Constant" in {type(module).__name__ for module in part.modules()}
        used = [key for key, value in part.named_parameters() if value.numel()]
        assert used
        assert not [key for key in used if key.startswith(tuple(f"model.{m}." for m in others(modality)))]
        x = example_input(part, 3)
        with torch.no_grad():
            expected = model(x) if isinstance(model, Classifier) else model(**{modality: x})[part.keys[-1]]
            assert torch.equal(part(x)[0 if isinstance(model, Classifier) else -1], expected)


@pytest.mark.parametrize(
    "message",
    [
        "No ONNX function found for <OpOverload(op='aten.linalg_eigh', overload='default')>.",
        "While executing %x : call_function[target=torch.ops.aten.linalg_eigh.default](args = (%x,))",
    ],
)
def test_an_operation_that_cannot_be_exported_is_named(folder, message):
    part = part_of(load_pretrained(folder / "model", "torch"), "text")
    outer = RuntimeError("Failed to export the model")
    outer.__cause__ = ValueError(message)
    told = str(_refusal(part, outer))
    assert told.startswith("text: the operation aten.linalg_eigh")
    assert told.endswith("cannot be exported")


class _Own(nn.Module):
    modality, outputs = "text", ("y",)

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return (self.operation(x),)


@onnx
@long
def test_refusals_of_the_exporters_name_the_operation(tmp_path):
    eigenvalues = _Own(lambda x: torch.linalg.eigvalsh(x[:, :, None] * x[:, None]))
    program = trace(eigenvalues, torch.rand(2, 4))
    with pytest.raises(ExportError, match=r"text: the operation aten\S*eig\S* cannot be exported"):
        write_onnx(program, eigenvalues, {"version": "0"}, tmp_path / "x.onnx")
    with pytest.raises(ExportError, match="text: "):
        trace(_Own(lambda x: x * x.sum().item() if x.sum() > 0 else x), torch.rand(2, 4))


@onnx
@long
@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "text"])
@pytest.mark.parametrize(
    "config",
    [
        variants("vatt-tiny"),
        variants("vatt-ma-tiny"),
        variants("vatt-tiny", audio_input="spectrogram", text__kind="bert"),
        variants("vatt-tiny", head__kind="joint", text__kind="bert_small", input__audio_level="as_is"),
        variants("vatt-tiny", text__kind="linear"),
        convolutional(),
    ],
    ids=["fac", "agnostic", "spectrogram", "joint", "linear", "convolutional"],
)
def test_every_kind_of_model(tmp_path, config, modality):
    save_model(tmp_path / "model", config)
    program = export_part(tmp_path / "model", modality, tmp_path / "x.pt2", to="torch")
    assert max(program.differences.values()) <= 1e-5
    done = export_part(tmp_path / "model", modality, tmp_path / "x.onnx")
    assert max(done.differences.values()) <= 1e-5  # of spectrograms too: 8.3e-5 with onnxruntime's own transform
    if modality == "video":
        export_part(tmp_path / "model", modality, tmp_path / "y.onnx", floating=True, opset=20, normalised=False)


@onnx
@long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "sounds"])
def test_a_fine_tuned_model(folder, name, tmp_path):
    model = load_pretrained(folder / name)
    modality = model.config.modality
    done = export_part(folder / name, modality, tmp_path / "x.onnx")
    assert done.about["classes"] == ["left", "right", "up"]
    x = example_input(part_of(load_pretrained(folder / name, "torch"), modality), 4)
    logits, probabilities = session(tmp_path / "x.onnx").run(None, {modality: x.numpy()})
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(probabilities, model.probabilities(expected).numpy(), atol=1e-4)


@onnx
@long
@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "text"])
@pytest.mark.parametrize("checkpoint", ["tf_ckpt_tx_fac", "tf_ckpt_ut_fac"])
def test_a_converted_model_gives_the_official_outputs(tmp_path, checkpoint, modality):
    """The numbers that the official code wrote beside its checkpoint."""
    source = REFERENCE / checkpoint
    convert(source, str(source / "config.json"), tmp_path / "model")
    export_part(tmp_path / "model", modality, tmp_path / "x.onnx", floating=modality == "video", normalised=False)
    with np.load(source / "expected.npz") as archive:
        x = archive[f"input/{modality}"]
        x = {"video": x, "audio": x[..., 0], "text": x.astype(np.int64)}[modality]
        outputs = session(tmp_path / "x.onnx")
        found = dict(
            zip([output.name for output in outputs.get_outputs()], outputs.run(None, {modality: x}), strict=True)
        )
        names = {"features": f"{modality}/features_pooled", "to_text": f"bridge/{modality}/totxt"}
        names |= {"to_audio": f"bridge/{modality}/toaud", "to_video": f"bridge/{modality}/tovid"}
        for name, value in found.items():
            np.testing.assert_allclose(value, archive[f"output/{names[name]}"], atol=1e-4, err_msg=name)
