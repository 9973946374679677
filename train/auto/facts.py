"""What a recipe is chosen by: the clips of a run, and the devices that are to train on them; the same on all ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from train.core.ranks import RankContext, gather
from vatt.clip import InputConfig
from vatt.data import Clip
from vatt.data.splits import TRAIN, splits_of
from vatt.data.survey import MOST, Survey, survey
from vatt.memory import free_memory

_MOST_WORKERS = 8  # processes that look at clips; 48 of them keep no more busy
_PRODUCT = 512  # rows of the matrices whose product is timed
_ROUNDS, _SECONDS = 5, 0.1


@dataclass(frozen=True)
class Facts:
    """Data and machine.

    Attributes:
        data: the data sets, as messages name them.
        survey: what they are like.
        named: clips (to train on, held out) where the data name splits; None where they do not.
        device: "cuda" or "cpu"; device_name as PyTorch reports it.
        memory: bytes that a rank may fill: of its GPU, or, on a CPU, its share of the main memory that is free.
        host: bytes of free main memory for a rank, the least of all; the memory of a CPU.
        cores: of the rank that has fewest.
        product: operations a second that a rank reaches on a CPU in a product of matrices; 0 if it was not timed.
    """

    data: tuple[str, ...]
    survey: Survey
    named: tuple[int, int] | None = None
    ranks: int = 1
    device: str = "cpu"
    device_name: str = "CPU"
    memory: int = 8 << 30
    host: int = 8 << 30
    cores: int = 2
    product: float = field(default=0.0, compare=False)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def gather_facts(
    context: RankContext,
    data: Mapping[str, Sequence[Clip]],
    spec: InputConfig,
    eval_split: str,
    timed: bool = True,
    look: bool = True,
) -> Facts:
    """Rank 0 looks at clips (without ``look`` it counts them alone) and, with ``timed``, times its cores; the others
    wait for what it found. All ranks must call."""
    host = (free_memory() or 8 << 30) // context.local_ranks
    memory = torch.cuda.mem_get_info()[0] if context.device.type == "cuda" else host
    least = [min(own) for own in zip(*gather((memory, host, context.cores)), strict=True)]
    found: tuple[Survey, float] | None = None
    if context.first:
        workers = min(_MOST_WORKERS, context.cores)
        rate = product_rate(max(1, context.cores - 1)) if timed and context.device.type == "cpu" else 0.0
        found = survey(data, spec, workers=workers, most=MOST if look else 0), rate
    looked, rate = gather(found)[0]
    return Facts(
        data=tuple(data),
        survey=looked,
        named=named_splits(data, eval_split),
        ranks=context.ranks,
        device=context.device.type,
        device_name=gather(context.device_name)[0],
        memory=least[0],
        host=least[1],
        cores=least[2],
        product=rate,
    )


def named_splits(data: Mapping[str, Sequence[Clip]], eval_split: str) -> tuple[int, int] | None:
    """Clips to train on, and held out, where every data set names splits; None where one does not."""
    found = [splits_of(clips) for clips in data.values()]
    if not all(splits.named for splits in found):
        return None
    held_out = sum(splits.counts.get(splits.held_out(eval_split), 0) for splits in found)
    return sum(splits.counts[TRAIN] for splits in found), held_out


def product_rate(threads: int) -> float:
    """Operations a second (2 a multiply-add) of a product of matrices on this CPU, in half a second. Float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.ones(_PRODUCT, _PRODUCT), torch.ones(_PRODUCT, _PRODUCT)
        a @ b
        rates = []
        for _ in range(_ROUNDS):
            began, count = time.perf_counter(), 0
            while (took := time.perf_counter() - began) < _SECONDS:
                a @ b
                count += 1
            rates.append(2 * _PRODUCT**3 * count / took)
        return median(rates)
    finally:
        torch.set_num_threads(before)
