"""The real training command on clips of the built-in sample: ``deepspeed train/pretrain.py``, in a process of its own,
and what it recorded of itself in metrics.jsonl."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.jobs.clips import Films, sample_films
from bench.jobs.model import config_of, dropout_of, peak_of, type_of
from bench.jobs.options import DEFAULT_DROP, Options
from bench.jobs.rows import Row, Rows, attempt, case, inputs_in_words, times
from bench.measure.memory import MIB
from bench.measure.process import ProcessFailed, running
from bench.measure.timing import summarise

NEEDED = ("samples_per_s", "tflops", "mfu", "data_wait", "memory_gb", "skipped_steps")
TINY = [f"model.{part}.num_layers=1" for part in ("video", "waveform", "text", "unified")]


def train(options: Options) -> Iterator[Row]:
    """A row for each preset. The files are written before the time counts."""
    device = torch.device(options.device)
    for model, batch in options.reading():
        config = config_of(model, DEFAULT_DROP, options.tiny)
        about = case(
            options,
            "train",
            f"{model} b{batch}",
            mode="deepspeed train/pretrain.py",
            provider=f"ours {options.backend}",
            shape=inputs_in_words(config, batch),
            dtype=str(type_of(device)).removeprefix("torch."),
            dropout=dropout_of(config),
            select=["--model", model, "--batch", str(batch)],
        )
        found = Rows()
        attempt(found, about, torch.device("cpu"), partial(_run, options, model, batch))
        yield from found.rows


def _run(options: Options, model: str, batch: int) -> Row:
    """Runs the command. Raises ProcessFailed, or FileNotFoundError without DeepSpeed's launcher."""
    with sample_films(options.amount.clips) as films, tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        out = Path(folder) / "run"
        began = time.monotonic()
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}  # it takes a GPU where it sees one
        command = _command(options, model, batch, films, out)
        with running(command, limit=options.end, environment=hidden) as process:
            process.finish()
        seconds = time.monotonic() - began
        records = read_records(out / "metrics.jsonl")
    peak = (None, "") if options.device == "cuda" else peak_of(torch.device("cpu"), options.size)
    return summary(records, batch, options.device, peak[0], peak[1]) | {"first_call_s": seconds}


def _command(options: Options, model: str, batch: int, films: Films, out: Path) -> list[str]:
    launcher = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if launcher is None:
        raise FileNotFoundError("deepspeed: the launcher is not installed (pip install deepspeed)")
    amount = options.amount
    words = [sys.executable, launcher, "--num_gpus", "1", "--master_port", str(_free_port()), "train/pretrain.py"]
    words += ["--data", str(films.manifest), "--config", "sample-gpu" if options.device == "cuda" else "sample"]
    words += ["--model", model, "--steps", str(amount.steps), "--batch-size", str(batch), "--out", str(out)]
    words += [f"run.log_every={amount.log}", "run.eval_every=0", "run.save_every=0"]
    words += [f"engine.kernels={options.backend}", f"data.workers={max(1, options.cores - 1)}"]
    return words + (TINY if options.tiny else [])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_records(path: Path) -> list[dict[str, Any]]:
    """The training records of a run. Raises ProcessFailed, which names the file and a missing field."""
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ProcessFailed(f"{path.name}: cannot be read: {error}") from error
    records = [record for record in found if record.get("kind") == "train"]
    for number, record in enumerate(records, 1):
        if missing := [name for name in NEEDED if name not in record]:
            raise ProcessFailed(f"{path.name}, training record {number}: has no {', '.join(missing)}")
    if len(records) < 2:
        raise ProcessFailed(
            f"{path.name}: {len(records)} training records, and the first holds the start; at least 2 are needed"
        )
    return records


def summary(records: list[dict[str, Any]], batch: int, device: str, peak: float | None, words: str) -> Row:
    """Figures from the records after the first, which holds the start: medians, and the mean share of waiting.

    ``peak``: operations a second for ``mfu``, where the command itself knows none (a CPU).
    """
    kept = records[1:]
    timing = summarise([1e3 * batch / record["samples_per_s"] for record in kept], [0.0])
    tflops = statistics.median(record["tflops"] for record in kept)
    known = kept[-1]["mfu"]
    mfu = known if peak is None else tflops * 1e12 / peak
    if peak is None:
        words = "MFU of the data sheet" if known is not None else "MFU: no data sheet for this device"
    memory = "allocated on the GPU" if device == "cuda" else "resident size of the process"
    notes = [words, f"peak: {memory}", f"{len(kept)} records; first_call_s is the whole command"]
    if skipped := kept[-1]["skipped_steps"]:
        notes.append(f"{skipped} steps were not finite")
    return {
        **times(timing),
        "host_ms": None,
        "rate": 1e3 * batch / timing.median,
        "unit": "samples/s",
        "tflops": tflops,
        "roof_tflops": None if peak is None else peak * 1e-12,
        "mfu": mfu,
        "wait_share": statistics.fmean(record["data_wait"] for record in kept),
        "peak_mib": kept[-1]["memory_gb"] * 1e9 / MIB,
        "note": "; ".join(notes),
    }
