"""Time to compute a step: from a measured row of a results file, else from a share of the GPU's peak."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from vatt.analysis.flops import peak_flops, train_flops_per_sample
from vatt.analysis.plan.request import ASSUMED, CONFIGURATION, DATA_SHEET, Assumption, Request
from vatt.files import TREE
from vatt.models.config import VATTConfig
from vatt.presets import preset
from vatt.results import ResultsError, Row, read

# The committed measurements, in a checkout; an installed package has none.
RESULTS = TREE / "bench" / "results" / "results.csv"
COLUMNS = ("time", "commit", "dirty", "device", "suite", "op", "case", "dtype", "mode", "provider", "rate", "unit")

OURS = {"auto": "ours auto", "triton": "ours triton", "torch": "ours torch"}
NAMES = {"bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True)
class Speed:
    """Seconds of the forward and backward pass and the optimizer on one GPU, and the share of its peak they reach."""

    seconds: float
    mfu: float
    assumptions: tuple[Assumption, ...]


def speed(request: Request, config: VATTConfig) -> Speed:
    """Predicts the computation of one step.

    Raises:
        ValueError: no peak is known for the GPU. ResultsError: a results file that cannot be read.
    """
    peak = peak_flops(request.gpu)
    if peak is None:
        raise ValueError(
            f"no data-sheet peak is known for {request.gpu!r}; vatt/analysis/flops.py lists the GPUs that have one"
        )
    work = train_flops_per_sample(config)
    found = [
        Assumption("peak", f"{peak / 1e12:g} TFLOP/s, bf16, dense, {request.gpu}", DATA_SHEET),
        Assumption("work", f"{work / 1e9:.1f} GFLOP a sample, forward and backward", CONFIGURATION),
    ]
    row = None if "mfu" in request.given else measured(request)
    if row is None:
        seconds = work * request.local_batch / (peak * request.mfu)
        found.append(_from_mfu(request))
    else:
        seconds = request.local_batch / float(row["rate"])
        found.append(_from_row(row))
    once, again = seconds / 3, request.contrastive_parts - 1  # a forward pass
    if request.checkpointing:
        seconds += once
        found.append(Assumption("checkpointing", "4/3 of the time: the forward pass twice", ASSUMED))
    if again:
        seconds += once * again / request.contrastive_parts
        found.append(Assumption("parts", f"the forward pass of {again} of {again + 1} parts once more", ASSUMED))
    return Speed(seconds, work * request.local_batch / seconds / peak, tuple(found))


def _from_mfu(request: Request) -> Assumption:
    value = f"{request.mfu:g} of the peak"
    if "mfu" in request.given:
        return Assumption("MFU", value, "given by --mfu")
    why = f"assumed: {request.results} has no such row" if request.results else "assumed: there are no results"
    return Assumption("MFU", value, f"{why}; measure it, or change it by --mfu")


def _from_row(row: Row) -> Assumption:
    state = ", with changes" if row["dirty"] == "True" else ""
    where = f"{row['suite']}/{row['op']} {row['case']}, {row['provider']}, {row['dtype']}; each GPU as this one"
    return Assumption(
        "rate",
        f"{float(row['rate']):g} samples/s ({where})",
        f"measured (row of {row['time']}: commit {row['commit']}{state}, {row['device']})",
    )


def measured(request: Request) -> Row | None:
    """The measured row to predict from, or None.

    A row of whole training steps comes before one of a job. Of several, the batch nearest to the one asked for counts,
    then the newest row.

    Raises:
        ResultsError: as `read_results`.
    """
    if request.results is None:
        return None
    fitting = [row for row in read_results(request.results) if _fits(row, request)]
    fitting.sort(key=lambda row: row["time"], reverse=True)
    fitting.sort(key=lambda row: (row["suite"] != "steps", abs(_batch(row["case"]) - request.local_batch)))
    return fitting[0] if fitting else None


def read_results(path: Path) -> list[Row]:
    """The rows of a CSV that the benchmarks wrote; of its columns those in ``COLUMNS`` must be there.

    Raises:
        ResultsError: no such file, columns that are missing, a row of another length, a rate that is not a
            finite number above zero.
    """
    rows = read(path, COLUMNS, others=True)
    for number, row in enumerate(rows, 2):
        if row["rate"] and not _is_rate(row["rate"]):
            raise ResultsError(f"{path}, line {number}: rate is {row['rate']!r}, not a finite number above zero")
    return rows


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf  # false for NaN
    except ValueError:
        return False


def _fits(row: Row, request: Request) -> bool:
    """Whether a row measured steps of this model, on this GPU, in this type and with these kernels."""
    what = (row["suite"], row["op"]) in (("steps", "step"), ("jobs", "pretrain")) and row["mode"] == "step"
    how = row["provider"] == OURS[request.kernels] and row["dtype"] == NAMES[request.dtype]
    figure = row["rate"] and row["unit"] == "samples/s"
    model, _, rest = row["case"].partition(" ")
    drop = rest.partition(" drop ")[2]  # of jobs; whole steps have the preset's
    alike = model == request.model and drop in ("", _drop(request.model))
    return bool(what and how and figure and alike) and same_gpu(request.gpu, row["device"])


def _drop(model: str) -> str:
    """The share of patches that the preset drops, as a job's case names it."""
    config = preset(model)
    if config.backbone == "convolutional":
        return "0%"
    part = config.unified if config.backbone == "unified" else config.video
    return f"{100 * (1 - part.patch_sampling_rate):.0f}%"


def _batch(case: str) -> int:
    found = re.search(r"\bb(\d+)\b", case)
    return int(found[1]) if found else 0


def same_gpu(gpu: str, device: str) -> bool:
    """Whether a device by the name that PyTorch reports is the GPU asked for: the same model word, the same peak."""
    word = next((word for word in re.findall(r"\w+", gpu) if re.search(r"\d", word)), gpu)
    return bool(re.search(rf"\b{re.escape(word)}\b", device)) and peak_flops(device) == peak_flops(gpu)
