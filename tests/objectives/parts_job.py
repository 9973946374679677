"""Losses, gradients and buffers of a step in parts on several ranks, in float64: run by test_parts.py, one process a
rank. Writes them as safetensors, averaged over ranks, by "parts/name"."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.objectives.test_parts import batch, module_of, state, step_in_parts
from tests.train.engine_job import BATCH
from train.core.ranks import start_distributed, stop_distributed


def main(path: str) -> None:
    torch.set_num_threads(1)
    context, found = start_distributed(), {}
    size = BATCH // context.ranks
    for masked in (False, True):
        given = batch(masked)
        own = {name: x[context.rank * size : (context.rank + 1) * size] for name, x in given.items()}
        for count in (1, 2, 4):
            module = module_of(per_item=True)
            losses = step_in_parts(module, count, given=own, first=context.rank * size)
            for name, x in (losses | state(module)).items():
                x = x.detach().clone()
                dist.all_reduce(x)
                found[f"{masked} {count}/{name}"] = x / context.ranks
    if context.first:
        save_file(found, path)
    stop_distributed()


if __name__ == "__main__":
    main(sys.argv[1])
