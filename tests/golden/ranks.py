"""Runs a function on several gloo ranks of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """``function(rank, ranks, *args)`` on each rank; what each returned (tensors and plain containers)."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_main, (function, ranks, folder, args), nprocs=ranks)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _main(rank: int, function: Callable[..., Any], ranks: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    try:
        torch.save(function(rank, ranks, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
