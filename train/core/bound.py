"""What bound a run: reading data, the host, or the device; from the shares of the time in its records.

In a step the host waits for the loader, works, and waits for the device to finish the step before. So whatever is the
slowest of the three fills the time, and the others wait for it or are done early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SHARES = ("data_wait", "device_wait", "ranks_wait")  # of a record: for the loader, the device, and other ranks


def shares_of(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The mean shares of the time of all records but the first, which has the start of the run: "data", "device",
    "ranks", and "host", the rest. Nothing where no record has them."""
    known = [record for record in records if all(name in record for name in SHARES)]
    known = known[1:] or known
    if not known:
        return {}
    found = {name.removesuffix("_wait"): sum(record[name] for record in known) / len(known) for name in SHARES}
    return {**found, "host": max(0.0, 1 - sum(found.values()))}


def in_words(shares: Mapping[str, float], on_gpu: bool) -> str:
    """Such as "data: 62% of the time waiting for the loader, 30% host, 8% waiting for the GPU". On a CPU the host is
    the device: what it does there is "computation"."""
    device, host = ("the GPU", "the host") if on_gpu else ("computation", "computation")
    names = {"data": "data", "host": host, "device": device}
    bound = max(names, key=lambda name: shares[name])
    text = f"{names[bound]}: {_percent(shares['data'])} of the time waiting for the loader"
    text += f", {_percent(shares['host'])} {'host' if on_gpu else 'computation'}"
    if on_gpu:
        text += f", {_percent(shares['device'])} waiting for the GPU"
    return text + (f", {_percent(shares['ranks'])} waiting for other ranks" if shares["ranks"] >= 0.005 else "")


def what_helps(shares: Mapping[str, float], on_gpu: bool, workers: int, cores: int, augment_on: str) -> str:
    """Which setting to try, by what bound the run.

    Args:
        workers: reading processes of a rank.
        cores: of a rank, for them and for itself.
    """
    if shares["data"] >= max(shares["host"], shares["device"]):
        ways = [f"data.workers={cores} (now {workers})"] if workers < cores else []
        ways += ["data packed by vatt data pack"]
        ways += ["data.augment_on=gpu"] if on_gpu and augment_on == "cpu" else []
        return f"try {', '.join(ways)}"
    if not on_gpu:
        return ""
    if shares["host"] >= shares["device"]:
        return "try engine.cuda_graphs=true or a larger run.batch_size"
    return "reading keeps up; engine.kernels=auto times the kernels"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
