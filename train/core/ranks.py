"""The processes of a job: joining, agreeing, leaving. Plain torch.distributed."""

from __future__ import annotations

import gc
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from vatt.config import ConfigError
from vatt.distributed import UnequalRanks
from vatt.precision import type_of

# A second group beside that of the gradients, on the CPU: a rank waits in it as long as the others live, however long
# one of them evaluates, and learns at once when one has gone. NCCL gives up after ten minutes.
_patient: dist.ProcessGroup | None = None
_LONG = timedelta(days=7)

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class RankContext:
    """This process among those of the job.

    Attributes:
        rank, ranks: its number, and how many there are.
        device: where it computes.
        began: when it joined (time.monotonic).
    """

    rank: int
    ranks: int
    device: torch.device
    began: float = field(default_factory=time.monotonic)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone speaks and writes."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The name of the GPU as PyTorch reports it, or "CPU"."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def __str__(self) -> str:
        return "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"

    def say(self, text: str) -> None:
        """A line for people, on rank 0."""
        if self.first:
            print(text, flush=True)

    def shard(self, count: int) -> range:
        """The indices of this rank among ``count``: every index belongs to exactly one rank."""
        return range(self.rank, count, self.ranks)

    def to_device(self, model: Model, precision: str) -> Model:
        """The model on the device of this rank, in the type of ``--precision``."""
        return model.to(self.device, type_of(precision, self.device))


def start_distributed() -> RankContext:
    """Joins the ranks that a launcher started, or makes this process the only one.

    Raises:
        ConfigError: the ranks cannot meet; the message names the port.
    """
    on_gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo")
        except dist.DistNetworkError as error:
            port = os.environ["MASTER_PORT"]
            raise ConfigError(
                f"the ranks cannot meet at port {port} ({str(error).splitlines()[0]}); if another job holds it, start "
                f"with: deepspeed --master_port PORT train/pretrain.py ..."
            ) from error
        global _patient
        _patient = dist.new_group(backend="gloo", timeout=_LONG)
    return RankContext(dist.get_rank(), dist.get_world_size(), device)


def agree(flags: list[bool], clips: int | None = None) -> list[bool]:
    """Each flag, true on all ranks if it was on any: what all must do together.

    Args:
        clips: of this rank's batch. They are compared here, where the hosts wait for each other anyway: a step with
            unequal batches would hang or abort in the collectives of the loss.

    Raises:
        UnequalRanks: on every rank, if the ranks have batches of different sizes.
    """
    if dist.get_world_size() == 1:
        return flags
    sizes = [] if clips is None else [clips, -clips]  # the largest of the negative ones is the smallest
    votes = torch.tensor([*map(int, flags), *sizes], dtype=torch.int64)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_patient)  # on the CPU: the GPU goes on meanwhile
    found = votes.tolist()
    if sizes and found[-2] != -found[-1]:
        raise UnequalRanks(
            f"batch: all ranks must have equally many clips; this one has {clips}, others have between {-found[-1]} "
            f"and {found[-2]}"
        )
    return [bool(vote) for vote in found[: len(flags)]]


def gather(item: Any) -> list[Any]:
    """The items of all ranks, in rank order, on the CPU. They are pickled, which is safe among our own processes."""
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item, group=_patient)
    return items


def wait_for_all() -> None:
    """Returns when all ranks have called it."""
    dist.barrier(group=_patient)


def peer_lost(error: RuntimeError) -> bool:
    """Whether gloo raised the error because another rank has gone. With NCCL a rank waits for its launcher."""
    text = str(error).lower()
    return "gloo" in text and ("closed by peer" in text or "reset by peer" in text)


def stop_distributed() -> None:
    """Leaves together. Ranks that end while others still talk to them abort those."""
    if dist.is_initialized():
        wait_for_all()
        gc.collect()
        dist.destroy_process_group()
        global _patient
        _patient = None
