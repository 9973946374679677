"""Predicts memory, time and communication of a pretraining run on paper, and says what each number rests on.

``python -m bench.plan --model vatt-large --gpus 64 --zero 3 --batch 2048``. Exit status 2: a request that makes no
sense. The computation comes from a row of the results file for this model and GPU where there is one, else from --mfu.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import store
from bench.plan.predict import predict
from bench.plan.request import TYPES, Request
from bench.plan.show import as_json, lines
from bench.plan.speed import OURS
from bench.plan.zero import STAGES
from vatt.analysis.flops import peak_flops
from vatt.config import ConfigError
from vatt.presets import PRESETS, preset


def parse(arguments: Sequence[str] | None) -> tuple[Request, bool]:
    """The request, and whether JSON is wanted. Ends with status 2 and the flag's name if something makes no sense."""
    unset = argparse.SUPPRESS  # so that what the user set is known
    parser = argparse.ArgumentParser("python -m bench.plan", description=__doc__, argument_default=unset)
    parser.add_argument("--model", required=True, metavar="NAME", help=", ".join(PRESETS))
    parser.add_argument("--gpus", required=True, type=int, metavar="N")
    parser.add_argument("--batch", required=True, type=int, metavar="N", help="samples of a step on all GPUs")
    parser.add_argument("--zero", type=int, choices=STAGES, help="stage (default: 0; bf16 runs it as 1)")
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="default: 8")
    parser.add_argument("--intra-gbps", type=float, metavar="X", help="GB/s a GPU sends within a node (default: 450)")
    parser.add_argument("--inter-gbps", type=float, metavar="X", help="GB/s a GPU sends to other nodes (default: 50)")
    parser.add_argument("--latency-us", type=float, metavar="X", help="to start a collective (default: 20)")
    parser.add_argument("--steps", type=int, metavar="N", help="of the run (default: 500000)")
    parser.add_argument("--checkpointing", action="store_true", help="engine.activation_checkpointing")
    parser.add_argument("--gpu", metavar="NAME", help="as in vatt/analysis/flops.py (default: H100 SXM)")
    parser.add_argument("--memory-gib", type=float, metavar="X", help="of a GPU (default: 80)")
    parser.add_argument(
        "--reserve-gib", type=float, metavar="X", help="of it not for tensors counted here (default: 2)"
    )
    parser.add_argument("--dtype", choices=tuple(TYPES), help="default: bf16")
    parser.add_argument("--kernels", choices=tuple(OURS), help="engine.kernels (default: triton)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--mfu", type=float, metavar="X", help="share of the peak that the computation reaches")
    rate.add_argument("--results", type=Path, metavar="FILE.csv", help=f"measured rows (default: {store.RESULTS.name})")
    parser.add_argument("--json", action="store_true", default=False)
    given = vars(parser.parse_args(arguments))
    as_data = given.pop("json")
    request = Request(**given, given=frozenset(given))
    if "results" not in given and "mfu" not in given and store.RESULTS.exists():
        request = Request(**given, results=store.RESULTS, given=frozenset(given))
    if complaint := wrong(request):
        parser.error(complaint)
    return request, as_data


def wrong(request: Request) -> str | None:
    """What makes no sense in a request, with the flag; None where all does."""
    try:
        preset(request.model)
    except ConfigError as error:
        return f"--model: {error}"
    for name in ("gpus", "batch", "gpus_per_node", "steps"):
        if getattr(request, name) < 1:
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be 1 or more"
    for name in ("intra_gbps", "inter_gbps", "memory_gib"):
        if not 0 < getattr(request, name) < float("inf"):
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be above 0"
    for name in ("latency_us", "reserve_gib"):
        if not 0 <= getattr(request, name) < float("inf"):
            return f"--{name.replace('_', '-')}: {getattr(request, name)} must be 0 or more"
    if not 0 < request.mfu <= 1:
        return f"--mfu: {request.mfu} is not a share above 0 and up to 1"
    if request.gpus > request.gpus_per_node and request.gpus % request.gpus_per_node:
        return f"--gpus: {request.gpus} are not whole nodes of {request.gpus_per_node} (--gpus-per-node)"
    if request.batch % request.gpus or request.batch < 2 * request.gpus:
        return f"--batch: {request.batch} samples cannot be shared out to {request.gpus} GPUs (--gpus), at least 2 each"
    if peak_flops(request.gpu) is None:
        return f"--gpu: no data-sheet peak is known for {request.gpu!r}; vatt/analysis/flops.py lists those known"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for a request that makes no sense."""
    request, as_data = parse(arguments)
    try:
        plan = predict(request)
    except store.StoreError as error:
        print(f"python -m bench.plan: error: --results: {error}", file=sys.stderr)
        return 2
    print(json.dumps(as_json(plan), indent=1) if as_data else "\n".join(lines(plan)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
