"""A prediction as tables, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bench.plan.predict import GIB, Plan


def lines(plan: Plan) -> Iterator[str]:
    """The prediction in words and tables of fixed width."""
    request = plan.request
    per_gpu = f"{request.batch} samples, {request.local_batch} a GPU"
    yield f"{request.model} on {request.gpus} x {request.gpu}, ZeRO {request.zero}, {per_gpu}"
    yield from ("", "Memory of a GPU in the backward pass, GiB (an upper bound: all parts at once)")
    for name, size in plan.memory.items():
        if size:
            yield f"  {name:<26}{size / GIB:>10.3f}"
    yield f"  {'sum':<26}{sum(plan.memory.values()) / GIB:>10.3f}"
    yield f"  {'in the optimizer':<26}{plan.update / GIB:>10.3f}"
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"  {verdict} in {request.memory_gib:g} GiB; the largest batch that fits: {plan.largest_batch} a GPU"
    yield from ("", "Communication of a step: GB that a GPU sends (within its node, to other nodes), ms")
    for exchange, seconds in plan.exchanges:
        intra, inter = request.links().sent(exchange.volume, exchange.passes)
        yield f"  {exchange.name:<30}{intra / 1e9:>9.4f}{inter / 1e9:>9.4f}{1e3 * seconds:>10.3f}"
    yield f"  {'sum':<48}{1e3 * plan.communication:>10.3f}"
    yield from (
        "",
        f"GPU memory: both passes read and write at least {plan.traffic / 1e9:.1f} GB a step, if no cache holds it",
    )
    yield from ("", f"Step: {1e3 * plan.speed.seconds:.1f} ms of computation (MFU {plan.speed.mfu:.3f})")
    for name, seconds in plan.step.items():
        rate = f"{request.batch / seconds:,.0f} samples/s"
        wait = f"communication {plan.share[name]:.1%}"
        yield f"  {name:<14}{1e3 * seconds:>9.1f} ms  {rate}, {wait}, {plan.days[name]:.2f} days"
    yield from ("", "What this rests on")
    for source in plan.sources:
        yield f"  {source.what}: {source.value} [{source.source}]"


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything of the prediction; memory in bytes, times in seconds."""
    request = {name: value for name, value in vars(plan.request).items() if name != "given"}
    request["results"] = None if plan.request.results is None else str(plan.request.results)
    return {
        "request": request,
        "memory": {**plan.memory, "sum": sum(plan.memory.values()), "in the optimizer": plan.update},
        "fits": plan.fits,
        "largest_batch_per_gpu": plan.largest_batch,
        "memory_traffic_bytes": plan.traffic,
        "communication": [{**asdict(exchange), "seconds": seconds} for exchange, seconds in plan.exchanges],
        "compute_seconds": plan.speed.seconds,
        "mfu": plan.speed.mfu,
        "step_seconds": plan.step,
        "communication_share": plan.share,
        "days": plan.days,
        "sources": [asdict(source) for source in plan.sources],
    }
