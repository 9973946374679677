"""Batches in memory that reading processes share with the one that trains: whole batches in slots that are used again.

The memory is anonymous (`memfd_create`): it counts as memory of the job, and /dev/shm, which a container limits to
64 MB, is not used at all. So ``docker --shm-size`` does not matter, and ``docker --memory`` does.

A batch that was handed out is not copied; its slot is free again when nobody holds any of its large tensors any more.
So a batch is valid as long as it is held, whoever holds it.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vatt.data.samples import Layout
from vatt.errors import UserError

_ALIGN = 64  # bytes at which each tensor of a batch begins
_SHARE = 0.8  # of the free memory that batches may take; the rest is for the processes themselves
PROCESS = 128 * 2**20  # bytes that a reading process takes for itself: 113 MB measured at 640x360, 208 at 1920x1080
_SMALL = 1 << 16  # bytes; smaller tensors are handed out as copies, so that who keeps one does not keep a slot


def batch_bytes(layout: Layout, rows: int) -> int:
    """Bytes of a batch of ``rows`` rows."""
    return sum(_aligned(_bytes(shape, dtype) * rows) for shape, dtype in layout.values())


def carve(memory: Tensor, layout: Layout, rows: int) -> dict[str, Tensor]:
    """The tensors (rows, *shape) of a batch in ``memory``, uint8 (`batch_bytes`,), which begins at an aligned place."""
    found, at = {}, 0
    for name, (shape, dtype) in layout.items():
        size = _bytes(shape, dtype) * rows
        found[name] = memory[at : at + size].view(dtype).view(rows, *shape)
        at += _aligned(size)
    return found


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


LOWER = "lower run.batch_size or data.prefetch, or raise the limit of memory (ulimit -v, docker --memory)"


class NoRoom(UserError, RuntimeError):
    """Batches that do not fit into memory. The message names the settings that help."""


def _no_room(size: int, error: OSError) -> NoRoom:
    return NoRoom(f"data: no memory for batches of {_gb(size)}: {error.strerror}; {LOWER}")


def fit_prefetch(
    prefetch: int, size: int, workers: int, ranks: int, free: int | None, parts: int = 1
) -> tuple[int, str]:
    """How many batches are kept ready, at most ``prefetch``, and in words why they are fewer.

    Args:
        size: bytes of a batch; one more than are kept ready is held, the one in use.
        parts: of the batch of a step that are in use at once; then ``size`` is of a part, and parts are kept ready.
        workers: reading processes of each rank.
        ranks: on this machine, which share what is free.
        free: bytes, or None if that is not known.

    Raises:
        NoRoom: not even one fits beside the one in use.
    """
    if free is None:
        return prefetch, ""
    room = free * _SHARE / ranks - workers * PROCESS
    fits = int(room // size) - parts
    unit = "batches" if parts == 1 else "parts of a batch"
    shared = f" for {ranks} ranks" if ranks > 1 else ""
    here = f"{_gb(free)} of memory are free{shared}"
    if fits < 1:
        raise NoRoom(
            f"data: {'two' if parts == 1 else parts + 1} {unit} of {_gb(size)} and {workers} reading processes do not "
            f"fit on each rank, {here}; lower run.batch_size or data.workers, or give the container more memory "
            "(docker --memory)"
        )
    if fits >= prefetch:
        return prefetch, ""
    needed = f"{prefetch + parts} {unit} of {_gb(size)}"
    return fits, f"data.prefetch: {fits} in place of {prefetch}, because {here}, too little for {needed} on each rank"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


class Slots:
    """``count`` batches of ``rows`` rows, and ``words`` numbers for those who fill them.

    Attributes:
        file: of the memory; a lock on it (fcntl.lockf) is freed by the system when its holder dies.
        words: int64, 0 at first.
        free: slots that hold nothing that anybody needs.
        held: how many were handed out and not given back.
        note: in words, why the memory is not pinned, though there is a GPU.
    """

    def __init__(self, layout: Layout, rows: int, count: int, words: int) -> None:
        self._layout, self._rows, self._count = layout, rows, count
        self._begin, self._size = _page(8 * words), _page(batch_bytes(layout, rows))
        self._numbers = words
        size = self._begin + count * self._size
        try:
            self.file = _anonymous_file()
            os.ftruncate(self.file.fileno(), size)
        except OSError as error:
            raise _no_room(size, error) from error
        self.free, self.held, self.note = deque(range(count)), 0, ""
        self._pinned: int | None = None
        self._closed = False
        self._owner = os.getpid()
        self._maps: list[mmap.mmap] = []
        try:
            self.attach()
        except OSError as error:
            raise _no_room(size, error) from error

    def attach(self) -> None:
        """Maps the memory into this process. A forked one maps it anew: the driver of a GPU may keep what it has pinned
        from processes that are forked later. The old map stays: if it is not there any more, the new one may lie in its
        place, and to unmap the old one would take it away."""
        self._map = mmap.mmap(self.file.fileno(), self._begin + self._count * self._size)
        self._maps.append(self._map)
        self.words = np.frombuffer(self._map, np.int64, self._numbers)

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """The batch of a slot, to be filled."""
        return carve(torch.from_numpy(self._bytes_of(slot)), self._layout, self._rows)

    def hand_out(self, slot: int, rows: int) -> dict[str, Tensor]:
        """The first ``rows`` rows of a slot, which is free when they are not held any more. Where all other slots are
        held, they are copied: whoever collects batches would stop those who fill them."""
        memory = self._bytes_of(slot)
        found = {name: x[:rows] for name, x in carve(torch.from_numpy(memory), self._layout, self._rows).items()}
        copies = self.held + 1 >= self._count
        self.held += 1
        weakref.finalize(memory, self._give_back, slot).atexit = False
        return {name: x.clone() if copies or x.nbytes < _SMALL else x for name, x in found.items()}

    def _bytes_of(self, slot: int) -> np.ndarray:
        return np.frombuffer(self._map, np.uint8, self._size, self._begin + slot * self._size)

    def _give_back(self, slot: int) -> None:
        """Called when the last tensor of a slot is gone, by whichever thread let it go; also in a forked process, which
        has copies of the objects, but no say and no GPU."""
        if os.getpid() != self._owner:
            return
        self.free.append(slot)
        self.held -= 1
        self._unpin()

    def pin(self) -> None:
        """Page-locks the memory for copies to a GPU that the host does not wait for. ``note`` says why where it fails;
        batches are copied to pinned memory then, before they go to the GPU (`train.core.transfer.Uploader`).

        tests/train/test_batches_to_device.py tries it where there is a GPU; it did not fail on an H200.
        cudaHostRegister takes any pageable memory of the process (CUDA runtime API, section Memory Management), and
        shared mappings of anonymous files are such.
        """
        address = torch.from_numpy(np.frombuffer(self._map, np.uint8)).data_ptr()
        error = torch.cuda.cudart().cudaHostRegister(address, len(self._map), 0)
        if int(error) == 0:
            self._pinned = address
            return
        self.note = (
            f"the memory of the loader could not be pinned (CUDA error {int(error)}); batches are copied once more"
        )
        with suppress(RuntimeError):  # the next launch would report the error again
            torch.zeros(1, device="cuda")

    def close(self) -> None:
        """Frees the memory as soon as no batch is held any more."""
        self._closed = True
        self._unpin()

    def _unpin(self) -> None:
        if self._closed and not self.held and self._pinned is not None:
            torch.cuda.cudart().cudaHostUnregister(self._pinned)
            self._pinned = None


class Board:
    """Who reads what: the words of `Slots`, which all processes see.

    Attributes:
        next: about the first task that nobody has taken; never beyond it.
        end: of the tasks that may be taken.
        slot: where the batches are that are not done, by number of the batch.
        owner: who has taken a task, its number plus 1, or 0; by number of the task.
        attempt, since: of each process: at which attempt it is, and when that began (ns).
    """

    def __init__(self, slots: Slots, sizes: tuple[int, ...]) -> None:
        parts = np.split(slots.words, np.cumsum(sizes)[:-1])
        self.next, self.end, self.slot, self.owner, self.attempt, self.since = parts
        self._file = slots.file

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time is inside. The system opens the lock of one that dies there."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def issue(self, batch: int, slot: int, tasks: range) -> None:
        """Lets a batch be filled."""
        with self.locked():
            self.slot[batch % len(self.slot)] = slot
            for task in tasks:
                self.owner[task % len(self.owner)] = 0
            self.end[0] = tasks.stop

    def take(self, process: int) -> int:
        """The next task, now of this process; -1 if there is none. One store makes it so: who is killed has taken it or
        has not."""
        with self.locked():
            task = int(self.next[0])
            while task < self.end[0] and self.owner[task % len(self.owner)]:
                task += 1
            if task >= self.end[0]:
                return -1
            self.attempt[process], self.since[process] = 0, time.monotonic_ns()
            self.owner[task % len(self.owner)] = process + 1
            self.next[0] = task + 1
            return task


def _page(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _anonymous_file() -> IO[Any]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vatt-batches"), "r+b")
    return tempfile.TemporaryFile()  # not Linux
