"""What DeepSpeed allocates in a few steps of a very small model: run by test_plan.py, which starts one process for all.

Writes, for each job, the bytes of distinct storages by part, of the rank that has the most of each.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from deepspeed.runtime.comm import coalesced_collectives

from tests.train.engine_job import BATCH, batch_of, small_model
from tests.train.ranks import free_port
from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import Engine
from train.core.ranks import gather, start_distributed, stop_distributed, wait_for_all
from vatt.config import from_dict
from vatt.objectives.pretraining import Pretraining


def storages(tensors):
    """Address -> bytes."""
    found = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    return found


def everything():
    """All tensors of this process that Python knows."""
    gc.collect()
    return storages(item for item in gc.get_objects() if issubclass(type(item), torch.Tensor) and not item.is_meta)


class Watch:
    """Reads a running engine's tensors by part."""

    def __init__(self, engine, before):
        self.engine, self.before = engine, before
        self.optimizer, self.parameters = engine._engine.optimizer, list(engine.module.parameters())
        self.most = {"gathered": 0, "buckets": 0, "copies": 0}
        self.reducing = True
        for owner in (engine._engine, self.optimizer):  # stage 0, and stages 1 and 2, reduce what this returns
            if flatten := getattr(owner, "flatten", None):
                owner.flatten = lambda tensors, flatten=flatten: self.copied(flatten(tensors))

    def flat_weights(self):
        """The optimizer's own fp32 weights, of stages 1 and 2 or of stage 3."""
        names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
        return [tensor for name in names for tensor in getattr(self.optimizer, name, None) or []]

    def gradients(self):
        owners = [*self.parameters, *self.flat_weights()]
        found = storages(owner.grad for owner in owners if owner.grad is not None)
        for kept in getattr(self.optimizer, "averaged_gradients", {}).values():
            found |= storages(kept if isinstance(kept, list) else [])
        return found | storages([getattr(self.optimizer, "grad_partitions_flat_buffer", torch.empty(0))])

    def buckets(self):
        found = {}
        for bucket in getattr(self.optimizer, "ipg_buckets", {}).values():
            buffers = bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer]
            found |= storages(buffer for buffer in buffers if buffer is not None)
        return found

    def shares(self):
        """ZeRO-3's part of every parameter."""
        return storages(p.ds_tensor for p in self.parameters if hasattr(p, "ds_tensor"))

    def whole(self):
        """Bytes of parameters that are whole beside the shares."""
        shares = self.shares()
        return sum(size for at, size in storages(p.data for p in self.parameters).items() if at not in shares)

    def look(self, *_):
        """In the middle of a step: the most so far."""
        if self.shares():
            self.most["gathered"] = max(self.most["gathered"], self.whole())
        self.most["buckets"] = max(self.most["buckets"], sum(self.buckets().values()))

    def copied(self, tensor):
        """A gradient on its way to the other ranks, if it is none of the buckets themselves."""
        if self.reducing:
            found = storages([tensor]).items()
            self.most["copies"] = max([self.most["copies"], *(n for at, n in found if at not in self.buckets())])
        return tensor

    def steady(self):
        shares = self.shares()
        states = self.engine._optimizer.state.values()
        moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        parameters = shares or storages(p.data for p in self.parameters)
        parameters = parameters | storages(self.engine.module.buffers())
        rest = {at: size for at, size in everything().items() if at not in self.before}
        return {
            "parameters": sum(parameters.values()),
            "persistent": self.whole() if shares else 0,
            "master": sum(storages(self.flat_weights()).values()),
            "moments": sum(storages(moments).values()),
            "steady": sum(rest.values()),
        }


def run(job, rank, ranks, device):
    before = everything()
    torch.manual_seed(0)
    module = Pretraining(small_model(job["model"]))
    Path(job["settings"]).write_text(json.dumps({"zero_optimization": job["buckets"]}))
    config = {"zero": job["zero"], "precision": job["precision"], "deepspeed": job["settings"]}
    config["contrastive_parts"] = job["parts"]
    wait_for_all()
    engine = Engine(module, from_dict(EngineConfig, config), OptimConfig(lr=1e-3), BATCH // ranks, device)
    watch, found = Watch(engine, before), {}
    for part in module.modules():
        part.register_forward_hook(watch.look)
    for parameter in watch.parameters:
        if parameter.requires_grad:
            parameter.register_hook(watch.look)
    scatter = coalesced_collectives._torch_reduce_scatter_fn  # stage 3
    coalesced_collectives._torch_reduce_scatter_fn = lambda given, *rest, **more: scatter(
        watch.copied(given), *rest, **more
    )
    update = engine._engine.step

    def step():
        found["gradients"] = sum(watch.gradients().values())
        watch.reducing = False
        update()
        watch.reducing = True

    engine._engine.step = step
    rows = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    for number in range(2):
        own = {key: value[rows].chunk(job["parts"]) for key, value in batch_of(number, False).items()}
        parts = ({key: chunks[at] for key, chunks in own.items()} for at in range(job["parts"]))
        engine.train_step(parts, 1e-3, number)
        del own, parts
    coalesced_collectives._torch_reduce_scatter_fn = scatter
    found |= watch.most | watch.steady()
    engine.close()
    every = gather(found)
    if rank == 0:
        Path(job["out"]).write_text(json.dumps({key: max(other[key] for other in every) for key in found}))
    wait_for_all()


def work(jobs):
    """All jobs, on this rank."""
    context = start_distributed()
    for job in jobs:
        run(job, context.rank, context.ranks, context.device)
        gc.collect()
    stop_distributed()


def main(groups):
    """Each group of jobs on its number of ranks: processes forked from this one, which has imported DeepSpeed once."""
    torch.set_num_threads(1)
    gc.freeze()  # what the imports made is left out of every search for tensors
    fork = multiprocessing.get_context("fork")
    for group in groups:
        os.environ["MASTER_PORT"] = str(free_port())
        os.environ["WORLD_SIZE"] = str(group["ranks"])
        processes = []
        for rank in range(group["ranks"]):
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
            processes.append(fork.Process(target=work, args=(group["jobs"],)))
            processes[-1].start()
        for process in processes:
            process.join()
        if codes := [process.exitcode for process in processes if process.exitcode]:
            raise SystemExit(f"{group['ranks']} ranks: ended with {codes}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
