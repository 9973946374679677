"""Time to compute a step: from a measured row of the results file, else from a share of the GPU's peak."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench import store
from bench.plan.request import ASSUMED, CONFIGURATION, DATA_SHEET, Request, Source
from vatt.analysis.flops import peak_flops, train_flops_per_sample
from vatt.models.config import VATTConfig
from vatt.presets import preset

RECOMPUTED = 4 / 3  # a second forward pass beside a forward and a backward pass of twice the work
OURS = {"triton": ("ours auto", "ours triton"), "torch": ("ours torch",)}
NAMES = {"bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True)
class Speed:
    """Seconds of the forward and backward pass and the optimizer on one GPU, and the share of its peak they reach."""

    seconds: float
    mfu: float
    sources: tuple[Source, ...]


def speed(request: Request, config: VATTConfig) -> Speed:
    """Predicts the computation of one step.

    Raises:
        ValueError: no peak is known for the GPU. StoreError: a results file that cannot be read.
    """
    peak = peak_flops(request.gpu)
    if peak is None:
        raise ValueError(
            f"no data-sheet peak is known for {request.gpu!r}; vatt/analysis/flops.py lists the GPUs that have one"
        )
    work = train_flops_per_sample(config)
    first = (
        Source("peak", f"{peak / 1e12:g} TFLOP/s, bf16, dense, {request.gpu}", DATA_SHEET),
        Source("work", f"{work / 1e9:.1f} GFLOP a sample, forward and backward", CONFIGURATION),
    )
    row = None if "mfu" in request.given else measured(request)
    if row is None:
        seconds, how = work * request.local_batch / (peak * request.mfu), _by_mfu(request)
    else:
        seconds, how = request.local_batch / float(row["rate"]), _by_row(row)
    if request.checkpointing:
        again = Source("checkpointing", "4/3 of the time: the forward pass twice", ASSUMED)
        return _speed(seconds * RECOMPUTED, request, work, peak, (*first, how, again))
    return _speed(seconds, request, work, peak, (*first, how))


def _speed(seconds: float, request: Request, work: float, peak: float, sources: tuple[Source, ...]) -> Speed:
    return Speed(seconds, work * request.local_batch / seconds / peak, sources)


def _by_mfu(request: Request) -> Source:
    if "mfu" in request.given:
        return Source("MFU", f"{request.mfu:g} of the peak", "given by --mfu")
    why = f"assumed: {request.results} has no such row" if request.results else "assumed: there are no results"
    return Source("MFU", f"{request.mfu:g} of the peak", f"{why}; measure it, or change it by --mfu")


def _by_row(row: store.Row) -> Source:
    state = ", with changes" if row["dirty"] == "True" else ""
    where = f"{row['suite']}/{row['op']} {row['case']}, {row['provider']}, {row['dtype']}; each GPU as this one"
    return Source(
        "rate",
        f"{float(row['rate']):g} samples/s ({where})",
        f"measured (row of {row['time']}: commit {row['commit']}{state}, {row['device']})",
    )


def measured(request: Request) -> store.Row | None:
    """The row of a whole training step (or, where none is, of a job) of this model on this GPU, whose batch is nearest
    to the one asked for; of several the newest. Raises StoreError."""
    if request.results is None:
        return None
    fitting = [row for row in store.read(request.results) if _fits(row, request)]
    fitting.sort(key=lambda row: row["time"], reverse=True)
    fitting.sort(key=lambda row: (row["suite"] != "steps", abs(_batch(row["case"]) - request.local_batch)))
    return fitting[0] if fitting else None


def _fits(row: store.Row, request: Request) -> bool:
    what = (row["suite"], row["op"]) in (("steps", "step"), ("jobs", "pretrain")) and row["mode"] == "step"
    how = row["provider"] in OURS[request.kernels] and row["dtype"] == NAMES[request.dtype]
    figure = (store.number(row, "rate") or 0) > 0 and row["unit"] == "samples/s"
    model, _, rest = row["case"].partition(" ")
    drop = rest.partition(" drop ")[2]  # of jobs; whole steps have the preset's
    alike = model == request.model and drop in ("", _drop(request.model))
    return what and how and figure and alike and same(request.gpu, row["device"])


def _drop(model: str) -> str:
    """The share of patches that the preset drops, as a job's case names it."""
    config = preset(model)
    part = config.unified if config.backbone == "unified" else config.video
    return f"{100 * (1 - part.patch_sampling_rate):.0f}%"


def _batch(case: str) -> int:
    found = re.search(r"\bb(\d+)\b", case)
    return int(found[1]) if found else 0


def same(gpu: str, device: str) -> bool:
    """Whether a device by the name that PyTorch reports is the GPU asked for: the same model word, the same peak."""
    word = next((word for word in re.findall(r"\w+", gpu) if re.search(r"\d", word)), gpu)
    return bool(re.search(rf"\b{re.escape(word)}\b", device)) and peak_flops(device) == peak_flops(gpu)
