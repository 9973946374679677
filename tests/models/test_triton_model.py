"""The whole model on the Triton kernels and in plain PyTorch: the same training. And the packed pass of VATT-MA."""

from __future__ import annotations

import copy

import pytest
import torch

from vatt.clip import InputConfig
from vatt.config import to_dict
from vatt.models import VATT
from vatt.objectives.pretraining import Pretraining
from vatt.optim import SGD
from vatt.presets import preset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 2


def small(name):
    """The tiny model, one layer of it, on clips that the interpreter can afford."""
    config = preset(name)
    config.input = InputConfig(frames=8, size=32, sample_rate=5120, words=7, candidates=2)
    config.video.max_temporal_buckets = config.unified.max_vid_temporal_buckets = 2
    config.video.max_vertical_buckets = config.video.max_horizontal_buckets = 2
    config.unified.max_vid_spatial_buckets = 2
    config.waveform.max_temporal_buckets = config.unified.max_aud_temporal_buckets = 8
    config.unified.max_txt_temporal_buckets = 7
    for part in (config.video, config.waveform, config.text, config.unified):
        part.num_layers = 1
    return config


def batch(config, clips=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = config.input
    text = torch.randint(1, 100, (clips, shape.candidates, shape.words), generator=g)
    text[:, :, shape.words // 2 :] = 0
    return {
        "video": torch.randint(0, 256, (clips, shape.frames, shape.size, shape.size, 3), generator=g).to(torch.uint8),
        "audio": torch.rand(clips, shape.samples, generator=g) * 2 - 1,
        "text": text,
        "audio_mask": torch.tensor([1.0] * (clips - 1) + [0.0]),
        "text_mask": torch.ones(clips),
    }


def trained(config, backend, start, data):
    """Losses, gradients of the first step and parameters after a few steps."""
    model = Pretraining(config, backend).to(DEVICE).train()
    model.load_state_dict(start)
    optimizer = SGD(model.parameters(), lr=0.002, momentum=0.0)
    losses, first = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model({k: v.to(DEVICE) for k, v in data.items()}, seed=step)["loss"]
        loss.backward()
        if step == 0:
            first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(loss.item())
    return losses, first, dict(model.named_parameters())


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_training_is_the_same_on_the_triton_kernels(name):
    pytest.importorskip("triton")
    config = small(name)
    torch.manual_seed(0)
    start = copy.deepcopy(Pretraining(config, "torch").state_dict())
    data = batch(config)
    losses, grads, params = trained(config, "torch", start, data)
    triton_losses, triton_grads, triton_params = trained(config, "triton", start, data)
    # Plain SGD: Adam divides by the size of a gradient, and so turns rounding noise into steps of full length. Batch
    # norm over four clips still amplifies it from step to step.
    assert triton_losses[0] == pytest.approx(losses[0], rel=1e-5)
    assert triton_losses == pytest.approx(losses, rel=2e-3)
    assert losses[-1] < losses[0]
    assert triton_grads.keys() == grads.keys()
    largest = max(grad.abs().max().item() for grad in grads.values())
    for name, grad in grads.items():
        # Some gradients are zero in exact arithmetic (key biases, a shift before batch norm) and hold only noise.
        tolerance = 1e-4 * grad.abs().max().item() + 1e-5 * largest
        torch.testing.assert_close(triton_grads[name], grad, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        change = (params[name] - start[name].to(DEVICE)).abs().max().item()
        torch.testing.assert_close(triton_params[name], params[name], atol=1e-2 * change + 1e-6, rtol=0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("given", [("video", "audio", "text"), ("audio", "text"), ("text",)])
def test_the_packed_pass_equals_one_pass_a_modality(training, given):
    config = small("vatt-ma-tiny")
    torch.manual_seed(0)
    model = VATT(config).double().train(training)
    data = {name: x for name, x in batch(config).items() if name in given}
    data = {name: x.double() if x.is_floating_point() else x for name, x in data.items()}
    inputs = {name: x.flatten(0, 1) if name == "text" else x for name, x in data.items()}
    packed = model.unified.forward_packed(inputs, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for name, x in inputs.items():
        alone = model.unified(name, x, generator=generator)
        for part, value in alone.items():
            torch.testing.assert_close(packed[name][part], value)


def test_one_argument_selects_the_reference():
    """No operation of a model built with backend="torch" asks for anything else."""
    for name in ("vatt-tiny", "vatt-ma-tiny"):
        model = Pretraining(preset(name), "torch")
        chosen = {module.backend for module in model.modules() if hasattr(module, "backend") and _is_gelu(module)}
        assert chosen == {"torch"}, to_dict(preset(name))


def _is_gelu(module):
    """A dense layer without GELU is one matrix product and has no choice."""
    return getattr(module, "gelu", True)
