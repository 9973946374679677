"""No operation of a training step makes the host wait for the GPU: forward pass, loss, backward pass and update run on
tensors of the meta device, which have no values that could be read, and every copy between host and device is found.

A GPU is not needed, nor a build of PyTorch for one. The launches of our kernels are recorded, not made.
"""

from __future__ import annotations

import importlib
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.config.sections import OptimConfig
from train.core.optimizers import make_optimizer
from vatt.data.decode import planes_capacity
from vatt.kernels import runtime
from vatt.models import Classifier, VideoBackbone
from vatt.models.config import VideoConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.frames import empty_frames
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

BATCH = 2
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2", "bincount"}


class MadeOfNumbers(TorchFunctionMode):
    """Collects tensors of the device that are made of numbers of the host: no operation shows that copy."""

    MAKERS = frozenset((torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor))

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in self.MAKERS and not out.is_cpu and not isinstance(args[-1], torch.Tensor):
            self.found.append(function.__name__)
        return out


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host wait: those whose result depends on values (boolean indices, and
    what reads a number), and copies between host and device."""

    def __init__(self):
        super().__init__()
        self.found, self.operations = [], 0
        self.numbers = MadeOfNumbers(self.found)
        self.within = mock.patch.object(torch, "tensor", self._tensor(torch.tensor))

    def _tensor(self, tensor):
        """torch.tensor, also where PyTorch's own functions call it: the mode does not see what is within those."""

        def recorded(data, *args, **kwargs):
            out = tensor(data, *args, **kwargs)
            if not out.is_cpu:
                self.found.append("tensor")
            return out

        return recorded

    def __enter__(self):
        self.within.__enter__()
        self.numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.numbers.__exit__(*error)
        self.within.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        out = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in [*given, *tree_leaves(out)] if isinstance(x, torch.Tensor)}
        name = function.overloadpacket.__name__
        boolean = name.startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in given[1:])
        # a scalar of the host may be an operand; a copy of it may not
        copies = len(devices) > 1 and (name in ("_to_copy", "copy_") or any(x.ndim for x in given if x.is_cpu))
        if name in WAITS or boolean or copies:
            self.found.append(name)
        return out


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """The meta device takes our kernels, in bf16 too, PyTorch's fused Adam, and autocast."""
    monkeypatch.setattr(runtime, "_refuse_cpu", lambda call: [])
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 1)
    adam = importlib.import_module("torch.optim.adam")  # torch.optim does not show it
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda p, cuda_unsupported=False: None)
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **options: autocast("cpu" if kind == "meta" else kind, **options)
    )


def on_meta(drawn):
    return {name: value.to("meta") for name, value in drawn.items()}


def pretraining(name, backend, per_item=False, dtype=torch.bfloat16, planes=0):
    """The real model, and a batch in the shapes of its configuration."""
    config = preset(name)
    for part in (config.video, config.waveform, config.unified):
        part.sample_per_item = per_item
    with torch.device("meta"):
        module = Pretraining(config, backend).to(dtype).train()
        read = config.input
        batch = {
            **empty_frames(BATCH, read, "video", planes),
            "audio": torch.empty(BATCH, read.samples, dtype=dtype),
            "text": torch.empty(BATCH, read.candidates, read.words, dtype=torch.int64),
            "audio_mask": torch.empty(BATCH),
            "text_mask": torch.empty(BATCH),
        }
    return module, batch | on_meta(module.draw(batch, 0))


def finetuning(backend, mixup, labels):
    config = VideoConfig(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, max_temporal_buckets=2)
    config.max_vertical_buckets = config.max_horizontal_buckets = 4
    with torch.device("meta"):
        model = Classifier(VideoBackbone(config, backend), 5, dropout=0.5, labels=labels)
        module = Finetuning(model, TargetConfig(mixup=mixup)).train()
        batch = {"x": torch.empty(4, 8, 64, 64, 3, dtype=torch.uint8), "target": torch.empty(4, 5)}
    return module, batch | on_meta(module.draw(batch, 0))


def waits_of(module, batch, kind="adam"):
    """Of the second step: at the first one, tables that only depend on shapes are made and kept."""
    optimizer = make_optimizer(module, OptimConfig(kind=kind, clip_norm=1.0), on_gpu=True)
    for _ in range(2):
        with runtime.recording(lambda *launch: None, "sm90"), Waits() as waits:
            module(batch, 0)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer._unread.clear()  # the next update would read whether this one was made, when it long was
    assert waits.operations > 100
    return waits.found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("name", ["vatt-base", "vatt-ma-base"])
def test_a_step_of_pretraining_never_waits(name, backend):
    assert waits_of(*pretraining(name, backend)) == []


@pytest.mark.parametrize(("backend", "kind"), [("triton", "adam"), ("torch", "sgd")])
@pytest.mark.parametrize("per_item", [False, True])
def test_nor_do_other_settings(backend, kind, per_item):
    assert waits_of(*pretraining("vatt-tiny", backend, per_item, torch.float32), kind) == []


@pytest.mark.parametrize("per_item", [False, True])
def test_nor_does_what_makes_patches_of_planes(per_item):
    assert waits_of(*pretraining("vatt-tiny", "triton", per_item, planes=planes_capacity(64))) == []


@pytest.mark.parametrize(("mixup", "labels"), [(0.0, "single"), (1.0, "single"), (1.0, "multi")])
def test_a_step_of_fine_tuning_never_waits(mixup, labels):
    assert waits_of(*finetuning("triton", mixup, labels), "sgd") == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.arange(3).to(x.device),
        lambda x: x[torch.arange(2)],  # indices of the host
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.sum()),
        lambda x: x.copy_(torch.ones(4)),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.unravel_index(x.long(), (2, 2)),
    ],
)
def test_what_waits_is_found(wait):
    x = torch.empty(4, device="meta")
    try:
        with Waits() as waits:
            wait(x)
    except (RuntimeError, NotImplementedError) as error:  # there is no value to read
        assert "meta" in str(error)  # noqa: PT017
    else:
        assert waits.found != []
