"""``vatt plan``: memory, time, communication and clips of a pretraining run on paper, and what each rests on.

``vatt plan --model vatt-large --gpus 64 --zero 3 --batch 2048``. Exit status 2: a request that makes no sense. The
computation comes from a row of the results file for this model and GPU if there is one, else from --mfu; the decoding
from --clips-per-core, or from what ``python -m bench decode`` measured.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from vatt.analysis.flops import peak_flops
from vatt.analysis.plan.compute import OURS, RESULTS
from vatt.analysis.plan.data import default_decoding
from vatt.analysis.plan.predict import GIB, Plan, fewest_parts, predict
from vatt.analysis.plan.request import TYPES, Request
from vatt.analysis.plan.zero import STAGES
from vatt.config import ConfigError
from vatt.data.shards.format import ShardError
from vatt.presets import PRESETS, preset
from vatt.results import ResultsError

_MOST = {"gpus": 10**6, "batch": 10**7, "gpus_per_node": 10**4, "steps": 10**12, "contrastive_parts": 65_536}
_LARGEST = 1e9  # of a rate, a size or a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of a `Request`. Their defaults stay out of the namespace, so that it tells what the user set."""
    parser.set_defaults(refuse=parser.error)
    unset = argparse.SUPPRESS
    add = partial(parser.add_argument, default=unset)
    add("--model", required=True, metavar="NAME", help=", ".join(PRESETS))
    add("--gpus", required=True, type=int, metavar="N")
    add("--batch", required=True, type=int, metavar="N", help="samples of a step on all GPUs")
    add("--zero", type=int, choices=STAGES, help=f"stage (default: {Request.zero}; bf16 runs 0 as 1)")
    add("--gpus-per-node", type=int, metavar="N", help=f"default: {Request.gpus_per_node}")
    add(
        "--intra-gbps",
        type=float,
        metavar="X",
        help=f"GB/s a GPU sends within a node (default: {Request.intra_gbps:g})",
    )
    add(
        "--inter-gbps",
        type=float,
        metavar="X",
        help=f"GB/s a GPU sends to other nodes (default: {Request.inter_gbps:g})",
    )
    add("--latency-us", type=float, metavar="X", help=f"to start a collective (default: {Request.latency_us:g})")
    add("--steps", type=int, metavar="N", help=f"of the run (default: {Request.steps})")
    add("--checkpointing", action="store_true", help="engine.activation_checkpointing")
    add("--contrastive-parts", type=int, metavar="N", help="parts of a GPU's batch, one at a time (default: 1)")
    add("--gpu", metavar="NAME", help=f"as in vatt/analysis/flops.py (default: {Request.gpu})")
    add("--memory-gib", type=float, metavar="X", help=f"of a GPU (default: {Request.memory_gib:g})")
    add(
        "--reserve-gib",
        type=float,
        metavar="X",
        help=f"of it not for tensors counted here (default: {Request.reserve_gib:g})",
    )
    add("--dtype", choices=tuple(TYPES), help=f"default: {Request.dtype}")
    add("--kernels", choices=tuple(OURS), help=f"engine.kernels (default: {Request.kernels})")
    add("--clips-per-core", type=float, metavar="X", help="clips/s that a core decodes (default: measured, if it was)")
    add("--cores-per-gpu", type=float, metavar="X", help=f"that decode (default: {Request.cores_per_gpu:g})")
    add("--augment-on", choices=("gpu", "cpu"), help=f"data.augment_on (default: {Request.augment_on})")
    add("--storage-mbps", type=float, metavar="X", help="MB/s that a node reads (default: not counted)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--clip-mb", type=float, metavar="X", default=unset, help="MB that are read for a clip")
    size.add_argument("--data", type=Path, metavar="SHARDS", default=unset, help="folder of shards, which tells them")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--mfu",
        type=float,
        metavar="X",
        default=unset,
        help=f"share of the peak that is reached (default: {Request.mfu})",
    )
    rate.add_argument(
        "--results",
        type=Path,
        metavar="FILE.csv",
        default=unset,
        help="measured rows (default: bench/results/results.csv of a checkout)",
    )
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints the plan. Ends with status 2 and the flag's name if the request makes no sense."""
    known = {field.name for field in fields(Request)}
    given = {name: value for name, value in vars(options).items() if name in known}
    request = Request(**given, given=frozenset(given))
    if not {"mfu", "results"} & request.given and RESULTS.exists():
        request = replace(request, results=RESULTS)
    request = replace(request, decoding=default_decoding())
    if complaint := _complaint(request):
        options.refuse(complaint)
    try:
        plan = predict(request)
    except ResultsError as error:
        options.refuse(f"--results: {error}")
    except ShardError as error:
        options.refuse(f"--data: {error}")
    print(json.dumps(as_json(plan), indent=1) if options.json else "\n".join(lines(plan)))
    return 0


def _complaint(request: Request) -> str | None:
    """What makes no sense in a request, with the flag; None if all does."""
    try:
        preset(request.model)
    except ConfigError as error:
        return f"--model: {error}"
    for name, most in _MOST.items():
        if getattr(request, name) < 1:
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be 1 or more"
        if getattr(request, name) > most:
            return f"--{name.replace('_', '-')}: {getattr(request, name):.3g} must be {most:,} or less"
    positive = ("intra_gbps", "inter_gbps", "memory_gib", "clips_per_core", "cores_per_gpu", "storage_mbps", "clip_mb")
    for name in positive:
        if getattr(request, name) is not None and not 0 < getattr(request, name) <= _LARGEST:
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be above 0, and {_LARGEST:g} at most"
    for name in ("latency_us", "reserve_gib"):
        if not 0 <= getattr(request, name) <= _LARGEST:
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be 0 or more, and {_LARGEST:g} at most"
    if not 0 < request.mfu <= 1:
        return f"--mfu: {request.mfu} is not a share above 0 and up to 1"
    if request.gpus > request.gpus_per_node and request.gpus % request.gpus_per_node:
        return f"--gpus: {request.gpus} are not whole nodes of {request.gpus_per_node} (--gpus-per-node)"
    if request.batch % request.gpus or request.batch < 2 * request.gpus:
        return f"--batch: {request.batch} samples cannot be shared out to {request.gpus} GPUs (--gpus), at least 2 each"
    if request.local_batch % request.contrastive_parts:
        return f"--contrastive-parts: {request.contrastive_parts} do not divide the {request.local_batch} samples a GPU"
    if preset(request.model).backbone == "convolutional":
        if request.checkpointing:
            return f"--checkpointing: {request.model} has convolutional networks, whose batch norms rule it out"
        if request.contrastive_parts > 1:
            return f"--contrastive-parts: the batch norms of {request.model} must see the whole batch of a GPU"
    if peak_flops(request.gpu) is None:
        return f"--gpu: no data-sheet peak is known for {request.gpu!r}; vatt/analysis/flops.py lists those known"
    return None


def lines(plan: Plan) -> Iterator[str]:
    """The plan in words and tables of fixed width."""
    request = plan.request
    per_gpu = f"{request.batch} samples, {request.local_batch} a GPU"
    if request.contrastive_parts > 1:
        per_gpu += f" in {request.contrastive_parts} parts"
    yield f"{request.model} on {request.gpus} x {request.gpu}, ZeRO {request.zero}, {per_gpu}"
    yield from ("", "Memory of a GPU in the backward pass, GiB (an upper bound: all parts at once)")
    for name, size in plan.memory.items():
        if size:
            yield f"  {name:<26}{size / GIB:>10.3f}"
    yield f"  {'sum':<26}{sum(plan.memory.values()) / GIB:>10.3f}"
    yield f"  {'in the optimizer':<26}{plan.update / GIB:>10.3f}"
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"  {verdict} in {request.memory_gib:g} GiB; the largest batch that fits: {plan.largest_batch} a GPU"
    if not plan.fits and (parts := fewest_parts(request)):
        yield f"  it fits in parts of {request.local_batch // parts}, with the loss of all: --contrastive-parts {parts}"
    yield from ("", "Communication of a step: GB that a GPU sends (within its node, to other nodes), ms")
    for collective, seconds in plan.collectives:
        intra, inter = request.links().sent(collective.volume, collective.passes)
        yield f"  {collective.name:<30}{intra / 1e9:>9.4f}{inter / 1e9:>9.4f}{1e3 * seconds:>10.3f}"
    yield f"  {'sum':<48}{1e3 * plan.communication:>10.3f}"
    yield from (
        "",
        f"GPU memory: both passes read and write at least {plan.traffic / 1e9:.1f} GB a step, if no cache holds it",
    )
    yield from ("", f"Step: {1e3 * plan.speed.seconds:.1f} ms of computation (MFU {plan.speed.mfu:.3f})")
    for name, seconds in plan.step.items():
        rate = f"{request.batch / seconds:,.0f} samples/s"
        wait = f"communication {plan.share[name]:.1%}"
        if plan.waiting[name] > 0:
            wait += f", waiting for clips {plan.waiting[name]:.1%}"
        yield f"  {name:<14}{1e3 * seconds:>9.1f} ms  {rate}, {wait}, {plan.days[name]:.2f} days"
    yield from _bottleneck(plan)
    yield from ("", "What this rests on")
    for found in plan.assumptions:
        yield f"  {found.what}: {found.value} [{found.source}]"


def _bottleneck(plan: Plan) -> Iterator[str]:
    """What the step waits for, and what feeding it takes."""
    yield f"Bottleneck: {_range(list(plan.bottleneck.values()))}"
    for name, rate in (("decoding", plan.supply.decoding), ("storage", plan.supply.storage)):
        if rate is not None:
            yield f"  {name} gives {rate:,.0f} clips/s"
    if plan.cores_needed is not None:
        needed = _range([f"{math.ceil(round(cores, 6))}" for cores in plan.cores_needed.values()])
        yield f"  cores that a GPU needs for decoding: {needed} (it has {plan.request.cores_per_gpu:g})"
    if plan.storage_needed is not None:
        needed = _range([f"{rate / 1e6:,.0f}" for rate in plan.storage_needed.values()])
        yield f"  storage that a node needs: {needed} MB/s"


def _range(found: list[str]) -> str:
    """Without overlap, and with it."""
    return " to ".join(dict.fromkeys(found)) if found[0][0].isdigit() else "; with overlap: ".join(dict.fromkeys(found))


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything of the plan: memory in bytes, times in seconds."""
    request = {name: value for name, value in vars(plan.request).items() if name != "given"}
    request |= {name: None if request[name] is None else str(request[name]) for name in ("results", "data", "decoding")}
    return {
        "request": request,
        "memory": {**plan.memory, "sum": sum(plan.memory.values()), "in the optimizer": plan.update},
        "fits": plan.fits,
        "largest_batch_per_gpu": plan.largest_batch,
        "memory_traffic_bytes": plan.traffic,
        "communication": [{**asdict(collective), "seconds": seconds} for collective, seconds in plan.collectives],
        "compute_seconds": plan.speed.seconds,
        "mfu": plan.speed.mfu,
        "step_seconds": plan.step,
        "communication_share": plan.share,
        "waiting_share": plan.waiting,
        "bottleneck": plan.bottleneck,
        "clips_per_second": {"decoding": plan.supply.decoding, "storage": plan.supply.storage},
        "cores_per_gpu_needed": plan.cores_needed,
        "storage_bytes_per_second_needed": plan.storage_needed,
        "days": plan.days,
        "sources": [asdict(found) for found in plan.assumptions],
    }
