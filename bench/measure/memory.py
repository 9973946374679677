"""How much memory the tensors of a call hold at once.

On a GPU PyTorch's allocator counts. On a CPU its profiler notes each allocation and release with its address; the
running sum at its highest is the exact peak. Not seen there: what libraries allocate for themselves (oneDNN's packed
weights, say), and what the process keeps for later, which its resident size shows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure import timing

MIB = 2**20


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
    """MiB that ``call`` has at most beyond what is allocated before it, its results among them.

    It should not release what was there before, such as old gradients: on a CPU that release is not seen.
    """
    on_gpu = timing.peak_mib(call, device)
    return _host_peak(call) / MIB if on_gpu is None else on_gpu


def _host_peak(call: Callable[[], Any]) -> int:
    """Bytes. All threads are seen."""
    with _silent():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            result = call()
        del result
    held: dict[int, int] = {}  # by address
    now = peak = 0
    for address, size in _changes(profile.profiler.kineto_results.experimental_event_tree()):  # type: ignore[union-attr]
        if size > 0:
            held[address] = size
            now += size
            peak = max(peak, now)
        else:
            # The profiler may note releases with sizes of an earlier profile, for memory that this one did not see
            # allocated: only what began here ends here.
            now -= held.pop(address, 0)
    return peak


@contextmanager
def _silent() -> Iterator[None]:
    """Drops what the profiler's library writes to the standard error output at each start and stop."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _changes(roots: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """(address, bytes; negative for a release) in the order of time."""
    found: list[tuple[int, int, int, int]] = []
    stack = list(roots)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            found.append((event.start_time_ns, len(found), event.extra_fields.ptr, event.extra_fields.alloc_size))
    return ((address, size) for _, _, address, size in sorted(found))


def held_mib(module: nn.Module, optimizer: torch.optim.Optimizer, others: Iterable[Tensor] = ()) -> float:
    """MiB of parameters, buffers, gradients, states of the optimizer and ``others``; what is shared counts once."""
    parameters = list(module.parameters())
    tensors = [*parameters, *module.buffers(), *others, *(p.grad for p in parameters if p.grad is not None)]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [x.untyped_storage() for x in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) / MIB
