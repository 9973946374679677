"""The processes of a run: joining, agreeing, leaving. Plain torch.distributed."""

from __future__ import annotations

import gc
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vatt.config import ConfigError

# A group beside that of the gradients, on the CPU: who waits in it waits as long as the others live, however long
# one of them evaluates, and learns at once when one has gone. NCCL gives up after ten minutes.
_patient: dist.ProcessGroup | None = None
_LONG = timedelta(days=7)


def start_distributed() -> tuple[int, int, torch.device]:
    """Joins the ranks that a launcher started, or makes this process the only one: (rank, ranks, device).

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
    return dist.get_rank(), dist.get_world_size(), device


def agree(flags: list[bool]) -> list[bool]:
    """Each flag, true on all ranks if it was on any: what all must do together."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    votes = torch.tensor([float(flag) for flag in flags], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def gather(item: Any) -> list[Any]:
    """The items of all ranks, in the order of ranks. Objects of our own processes alone; they stay on the CPU."""
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item, group=_patient)
    return items


def peer_lost(error: RuntimeError) -> bool:
    """Whether gloo raised the error because another rank has gone. With NCCL a rank waits for its launcher."""
    text = str(error).lower()
    return "gloo" in text and ("closed by peer" in text or "reset by peer" in text)


def wait_for_all() -> None:
    """Returns when all ranks have called it."""
    dist.barrier(group=_patient)


def stop_distributed() -> None:
    """Leaves together. Ranks that end while others still talk to them abort those."""
    if dist.is_initialized():
        wait_for_all()
        gc.collect()
        dist.destroy_process_group()
        global _patient
        _patient = None
