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

MIB = 2**20


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
    """MiB that ``call`` has at most beyond what is allocated before it, its results among them.

    It should not release what was there before, such as old gradients: on a CPU that release is not seen.
    """
    if device.type != "cuda":
        return _host_peak(call) / MIB
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def _host_peak(call: Callable[[], Any]) -> int:
    """Bytes. All threads are seen."""
    with _silent():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            result = call()
        del result
    events = list(profile.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    changes: list[tuple[int, int, int, int]] = []  # in the order of time: address, and bytes, negative for a release
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, len(changes), event.extra_fields.ptr, event.extra_fields.alloc_size))
    held: dict[int, int] = {}  # by address
    now = peak = 0
    for _, _, address, size in sorted(changes):
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


def held_mib(module: nn.Module, optimizer: torch.optim.Optimizer, others: Iterable[Tensor] = ()) -> float:
    """MiB of parameters, buffers, gradients, states of the optimizer and ``others``; what is shared counts once."""
    parameters = list(module.parameters())
    tensors = [*parameters, *module.buffers(), *others, *(p.grad for p in parameters if p.grad is not None)]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [x.untyped_storage() for x in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) / MIB
