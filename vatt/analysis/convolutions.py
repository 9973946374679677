"""Operations and activations of the convolutional networks, from a pass on tensors without memory.

Unlike those of a Transformer, their sizes follow no short formula: they depend on every padding. So the network runs on
the device "meta", where nothing is computed, and tells the size of every product and of every tensor that it would keep
for the backward pass.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vatt.models.config import ClassifierConfig, I3DConfig, ResNetConfig, VATTConfig
from vatt.models.mmv import I3D, ResNet
from vatt.models.mmv.layers import Conv
from vatt.models.sound import log_mel_shape


@dataclass(frozen=True)
class Passed:
    """What a forward pass takes: operations of a clip; bytes kept for the backward pass, of each clip and beside."""

    flops: int
    bytes: int
    constant: int


def of_video(config: VATTConfig | ClassifierConfig, dtype: torch.dtype = torch.float32) -> Passed:
    """The I3D, on windows of ``config.input``."""
    spec = config.input
    return _passed(I3DConfig, astuple(config.i3d), (spec.frames, spec.size, spec.size, 3), dtype)


def of_audio(config: VATTConfig | ClassifierConfig, dtype: torch.dtype = torch.float32) -> Passed:
    """The ResNet, on the log-mel of windows of ``config.input``, which is made in float32 and kept, too."""
    return _passed(ResNetConfig, astuple(config.resnet), log_mel_shape(config.input, config.resnet), dtype)


@lru_cache(maxsize=64)
def _passed(kind: Any, values: tuple[Any, ...], shape: tuple[int, ...], dtype: torch.dtype) -> Passed:
    section = kind(*values)
    with torch.device("meta"):
        network = I3D(section) if kind is I3DConfig else ResNet(section)
    network.train().to(dtype)
    flops, one = _run(network, torch.empty(1, *shape, device="meta"))
    _, two = _run(network, torch.empty(2, *shape, device="meta"))
    return Passed(flops, two - one, 2 * one - two)


def _run(network: nn.Module, x: Tensor) -> tuple[int, int]:
    """Operations of a forward pass, and bytes of the distinct storages that it keeps."""
    flops, kept = 0, dict[int, torch.UntypedStorage]()  # the storages themselves, or another might get the address
    own = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}

    def count(conv: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal flops
        assert isinstance(conv, Conv)
        flops += 2 * out.numel() * conv.weight[0].numel()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    hooks = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, Conv)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return flops, sum(storage.nbytes() for storage in kept.values())
