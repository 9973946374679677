"""Between host and device without waiting: batches go to the device while it computes, results come back later."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vatt.data import Batch

_AHEAD = 1  # batches on the device beside the one in use


class Later:
    """Numbers of the device on their way to the host."""

    def __init__(self, values: Tensor) -> None:
        """``values``: any shape; what is done to it afterwards does not change what is read."""
        self._ready: Any = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event(blocking=True)  # the core is free while the host waits
            self._ready.record()
        else:
            self._host = values.clone()

    def read(self) -> Any:
        """The numbers, as nested lists or one number. Waits until the device has computed them."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = None
        return self._host.tolist()


class Uploader:
    """Copies batches to the device on a stream of its own. The host issues the copy for a step while the device still
    computes the step before, so the two overlap. On a CPU there is nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._on_their_way: deque[tuple[Any, list[Tensor]]] = deque()
        self._used: deque[Any] = deque()  # when the device was done with what was issued before a copy

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """The tensors of ``batch`` on the device, to be used on the current stream. The loader has pinned them on a
        GPU; what is drawn on the host is pinned here, since a copy from other memory makes the host wait."""
        tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        if self._stream is None:
            return {key: value.to(self.device) for key, value in tensors.items()}
        self._keep_pace()
        with torch.cuda.stream(self._stream):
            host = {key: _pinned(value) for key, value in tensors.items()}
            sent = {key: value.to(self.device, non_blocking=True) for key, value in host.items()}
            copied = torch.cuda.Event()
            copied.record()
        self._on_their_way.append((copied, list(host.values())))
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for value in sent.values():  # its memory is of the other stream: not free before this one has read it
            value.record_stream(current)
        return sent

    def _keep_pace(self) -> None:
        """Waits until the device is done with the batch before the last one. It still has the last one to work on; but
        without a wait the host would send all parts of a step before the first was used, and they would not fit."""
        issued = torch.cuda.Event(blocking=True)
        issued.record(torch.cuda.current_stream(self.device))
        self._used.append(issued)
        if len(self._used) > _AHEAD:
            self._used.popleft().synchronize()

    def let_go(self) -> None:
        """Drops the tensors of the host that have arrived. The loader uses their memory again when nobody holds them,
        and PyTorch knows of copies only from memory of its own."""
        while self._on_their_way and self._on_their_way[0][0].query():
            self._on_their_way.popleft()


def _pinned(value: Tensor) -> Tensor:
    return value.pin_memory() if value.device.type == "cpu" and not value.is_pinned() else value
