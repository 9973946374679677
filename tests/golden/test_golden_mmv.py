"""The convolutional baseline (MMV) against video_i3d*.npz, audio_resnet2d.npz and full_cnn_fac.npz.

A file that is not there is skipped; the largest are read from the folder that VATT_REFERENCE names. Gradients and
training outputs are compared in float64: "in float32, a ReLU that flips at a value near 0 changes the gradients of
these deep, small-batch BN networks by up to 0.2 of the norm of a tensor" (README, Precision).
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch

from tests.golden.golden import FORWARD, REFERENCE, assert_close, load, loaded
from tests.golden.test_golden_full import batch, build, compare
from vatt.models import I3D, ResNet
from vatt.models.mmv.layers import ConvBatchNorm
from vatt.weights.tensorflow.config import i3d_config, resnet_config
from vatt.weights.tensorflow.variables import gradients, variables

EXACT, GRADIENT = 1e-9, 1e-5  # of the largest value; of the norm of a tensor
TRAINING, AFTER = 1e-3, 1e-4  # of TensorFlow's own float32 (README, Precision)
CASES = {"video_i3d": "video", "video_i3d_narrow": "video", "audio_resnet2d": "spectrogram"}
PRESENT = [name for name in CASES if (REFERENCE / f"{name}.npz").exists()]


def kernel(path, shape, seed):
    """A kernel that is not stored (README, Parameters by formula)."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        base = (zlib.crc32(path.encode()) * 0xBF58476D1CE4E5B9 + seed * 0x94D049BB133111EB) % 2**64
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    unit = (2.0 * (x >> np.uint64(58)).astype(np.float64) - 63.0) / 64.0
    scale = np.sqrt(6.0 / np.prod(shape[:-1]))
    step = 2.0 ** (np.floor(np.log2(scale)) - 3)
    return (unit * (np.round(scale / step) * step)).reshape(shape).astype(np.float32)


def read(name):
    """A golden file with all of its parameters."""
    golden = load(name)
    with np.load(REFERENCE / f"{name}.npz") as archive:
        shapes = json.loads(str(archive["param_formula"])) if "param_formula" in archive else {}
    for keras, shape in shapes.items():
        golden.params[keras] = kernel(golden.paths[keras], shape, golden.config["formula_seed"])
    return golden


def network(golden, **changes):
    official = {**golden.config, **changes}
    made = I3D(i3d_config(official)) if official["name"] == "i3d" else ResNet(resnet_config(official))
    return loaded(made, golden)


def signal(golden, name):
    x = golden.tensor(CASES[name])
    return x if x.ndim == 5 else x.squeeze(-1)


def assert_norm_gradients(module, name, golden):
    """Whole gradients, or samples and the norm of those that are too large to be stored. Returns how many."""
    ours, checked = gradients(module), 0
    with np.load(REFERENCE / f"{name}.npz") as archive:
        for key in archive.files:
            section, _, keras = key.partition("/")
            if section not in ("grad", "grad_sample"):
                continue
            path, expected = golden.paths[keras], archive[key].astype(np.float64)
            found, norm = ours.pop(path).astype(np.float64), np.linalg.norm(expected)
            if section == "grad_sample":
                norm = float(archive[f"grad_norm/{keras}"])
                assert np.linalg.norm(found) == pytest.approx(norm, rel=GRADIENT), path
                sums = found.reshape(-1, found.shape[-1]).sum(0)
                recorded = archive[f"grad_channel_sum/{keras}"]
                assert np.linalg.norm(sums - recorded) <= GRADIENT * max(norm, np.linalg.norm(recorded)), path
                found = found.reshape(-1)[(np.arange(256) * 7919) % found.size]
            assert np.linalg.norm(found - expected) <= GRADIENT * norm, path
            checked += 1
    assert not checked or not ours, sorted(ours)
    return checked


def statistics(golden, phase):
    start = f"{phase}/"
    found = {key.removeprefix(start): value for key, value in golden.outputs.items() if key.startswith(start)}
    return {golden.paths[keras]: value for keras, value in found.items() if keras in golden.paths}


@pytest.mark.parametrize("name", PRESENT)
def test_network_in_inference_and_in_training(name):
    golden = read(name)
    model, x = network(golden), signal(golden, name)
    endpoints = {}
    layers = model.layers.items() if isinstance(model, I3D) else enumerate(model.groups)
    for key, layer in layers:
        at = key if isinstance(key, str) else f"unit_out_{key}"
        layer.register_forward_hook(lambda _, __, out, at=at: endpoints.update({at: out}))
    with torch.no_grad():
        out = model(x)
    assert_close(out["features_pooled"], golden.outputs["infer/features_pooled"], FORWARD)
    if "infer/features" in golden.outputs:
        assert_close(out["features"], golden.outputs["infer/features"], FORWARD)
    for key, value in golden.outputs.items():
        kind, _, at = key.removeprefix("infer/").partition("/")
        if key.startswith("infer/endpoint_mean/") and at in endpoints:
            assert_close(endpoints[at].transpose(0, 1).flatten(1).mean(1), value, FORWARD, key)
        if kind == "endpoint_shape" and at in endpoints:
            assert tuple(endpoints[at].movedim(1, -1).shape) == tuple(value), key
    with torch.no_grad():
        assert_close(model.train()(x)["features_pooled"], golden.outputs["train/features_pooled"], TRAINING)
        for path, value in statistics(golden, "after_train").items():
            assert_close(variables(model)[path].tensor, value, FORWARD, path)
        after = model.eval()(x)["features_pooled"]
    assert_close(after, golden.outputs["infer_after_train/features_pooled"], AFTER)


@pytest.mark.parametrize("name", PRESENT)
def test_network_in_float64(name):
    golden = read(name)
    model = network(golden).double().train()
    pooled = model(signal(golden, name).double())["features_pooled"]
    assert_close(pooled, golden.outputs["train64/features_pooled"], EXACT)
    target = (pooled * golden.tensor("r").double()).sum()
    assert_close(target, golden.outputs["train64/target"], EXACT)
    if any(key.startswith("grad") for key in np.load(REFERENCE / f"{name}.npz").files):
        target.backward()
        assert assert_norm_gradients(model, name, golden) == len(gradients(model))


@pytest.mark.parametrize("name", [name for name in PRESENT if name == "video_i3d_narrow"])
def test_ordinary_batch_norm_keeps_the_unbiased_variance(name):
    golden = read(name)
    model = network(golden, use_xreplica_bn=False, batch_norm_decay=0.9).train()
    with torch.no_grad():
        out = model(signal(golden, name))
    assert_close(out["features_pooled"], golden.outputs["plain_bn/train/features_pooled"], TRAINING)
    found = statistics(golden, "plain_bn/after_train")
    assert len(found) == 2 * sum(isinstance(part, ConvBatchNorm) for part in model.modules())
    for path, value in found.items():
        assert_close(variables(model)[path].tensor, value, FORWARD, path)


def test_whole_model():
    golden = read("full_cnn_fac")
    model, inputs = loaded(build(golden), golden), batch(golden)
    with torch.no_grad():
        embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
        compare(golden, "infer", FORWARD, embeddings, model(inputs, seed=0))
        model.train()
        embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
        losses = model.loss(embeddings, inputs["audio_mask"], inputs["text_mask"])
        compare(golden, "train", TRAINING, embeddings, losses)
        for path, value in statistics(golden, "after_train").items():
            assert_close(variables(model)[path].tensor, value, AFTER, path)
        model.eval()
        embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
        compare(golden, "infer_after_train", AFTER, embeddings, model(inputs, seed=0))


def test_whole_model_in_float64():
    golden = read("full_cnn_fac")
    model = loaded(build(golden), golden).double().train()
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in batch(golden).items()}
    embeddings = model.vatt(inputs["video"], inputs["audio"], inputs["text"])
    losses = model.loss(embeddings, inputs["audio_mask"], inputs["text_mask"])
    compare(golden, "train64", EXACT, embeddings, losses)
    losses["loss"].backward()
    assert assert_norm_gradients(model, "full_cnn_fac", golden) == len(gradients(model))
