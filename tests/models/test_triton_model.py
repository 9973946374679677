"""The whole model on the Triton kernels and in plain PyTorch: the same training. And the packed pass of VATT-MA."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.kernels.test_operators import Called
from tests.numerics import assert_as_exact_as_eager, largest, nudged
from vatt.clip import InputConfig
from vatt.config import to_dict
from vatt.models import VATT
from vatt.models.layers import MLP, Attention, LayerNorm
from vatt.models.transformer import Encoder
from vatt.objectives.pretraining import Pretraining
from vatt.optim import SGD
from vatt.presets import preset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 2


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of PyTorch only wait for each other over the small blocks of the interpreter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def trained(config, backend, start, data, dtype=torch.float32):
    """Losses and parameters of a few steps, and gradients of the first one."""
    model = Pretraining(config, backend).to(DEVICE, dtype).train()
    model.load_state_dict(start)
    # Plain SGD: Adam divides by the size of a gradient, and so turns rounding noise into steps of full length.
    optimizer = SGD(model.parameters(), lr=0.002, momentum=0.0)
    data = {name: x.to(DEVICE, dtype if x.is_floating_point() else None) for name, x in data.items()}
    losses, first = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(data, seed=step)["loss"]
        loss.backward()
        if step == 0:
            first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(loss.detach())
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    return {f"loss {step}": loss for step, loss in enumerate(losses)}, first, parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_training_is_as_exact_on_the_triton_kernels_as_in_plain_pytorch(name):
    """Batch norm over four clips amplifies each rounding in what follows, so several runs of eager are the measure."""
    pytest.importorskip("triton")
    config = small(name)
    torch.manual_seed(0)
    start = copy.deepcopy(Pretraining(config, "torch").state_dict())
    data = batch(config)
    exact_losses, exact_grads, exact_parameters = trained(config, "torch", start, data, torch.float64)
    starts = [start, *(nudged(start, seed) for seed in range(4))]
    losses, grads, parameters = zip(*(trained(config, "torch", other, data) for other in starts), strict=True)
    ours = trained(config, "triton", start, data)
    assert exact_losses[f"loss {STEPS - 1}"] < exact_losses["loss 0"]
    assert_as_exact_as_eager(ours[0], losses, exact_losses)
    # Some gradients are zero in exact arithmetic (key biases, a shift before batch norm) and hold only noise.
    assert_as_exact_as_eager(ours[1], grads, exact_grads, scale=largest(exact_grads))
    assert_as_exact_as_eager(ours[2], parameters, exact_parameters, floor=torch.finfo(torch.float32).eps)


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


def test_an_encoder_draws_the_seeds_of_its_dropout_at_once():
    """And activation checkpointing computes again with the same masks."""
    config = small("vatt-tiny").video
    config.num_layers, config.dropout_rate = 2, 0.3
    config.d_model, config.d_kv, config.d_ff, config.num_heads = 16, 16, 16, 1
    torch.manual_seed(0)
    encoder = Encoder(config, backend="triton").to(DEVICE)
    x = torch.randn(1, 5, config.d_model, device=DEVICE)
    grads = []
    for on in (False, True):
        encoder.activation_checkpointing = on
        encoder.zero_grad()
        torch.manual_seed(1)
        with Called() as called:
            out, _ = encoder(x)
        out.square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters()])
        draws = [name for name in called.names if "randint" in name or "random" in name]
        assert len(draws) == 1, draws
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_every_site_of_dropout_has_a_seed_of_its_own():
    config = small("vatt-tiny").video
    config.num_layers, config.dropout_rate = 2, 0.3
    config.d_model, config.d_kv, config.d_ff, config.num_heads = 16, 8, 24, 2
    encoder, found = Encoder(config), []

    def keep(module, inputs, kinds):
        found.extend(int(x[0]) for x in (*inputs, *kinds.values()) if isinstance(x, torch.Tensor) and x.ndim == 1)

    for module in encoder.modules():
        if isinstance(module, LayerNorm | Attention | MLP):
            module.register_forward_pre_hook(keep, with_kwargs=True)
    encoder(torch.randn(2, 9, config.d_model))
    assert len(found) == len(set(found)) == 4 * config.num_layers + 1
