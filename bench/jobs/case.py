"""Cases of jobs: a row each, how they are timed, that a failure is a row too; and presets that run on random inputs.

A job is a generator of messages: {"begin": row} before a case and {"done": row} after it. If nothing more comes after a
"begin", that case ended the process. A training step is as training makes it: bf16 weights on a GPU, float32 on a CPU.
"""

from __future__ import annotations

import resource
import shlex
from collections.abc import Callable, Generator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench.jobs.options import GIB, Options
from bench.measure.peaks import measure_peaks
from bench.measure.timing import Timing, summarise, tidy
from vatt.analysis.flops import peak_flops
from vatt.config import update
from vatt.kernels.timing import reason, repeat
from vatt.models.config import VATTConfig
from vatt.objectives.pretraining import Pretraining
from vatt.precision import type_of
from vatt.presets import preset
from vatt.process import Message

Row = dict[str, Any]
MOST = 200  # calls of one case
# What PyTorch and the system say where memory ends: the GPU's, or that which this process may have.
NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "out of memory")


def case(options: Options, job: str, name: str, *, mode: str, provider: str, select: Row, **rest: Any) -> Row:
    """The columns that say what is measured. ``select``: the options of the command line that pick this case out of its
    job; ``rest``: shape, dtype, dropout."""
    words = ["python", "-m", "bench", "jobs", "--only", job]
    for option, value in (select | dict(device=options.device, size=options.size)).items():
        words += [f"--{option}", str(value)]
    if options.backend != "auto":
        words += ["--backend", options.backend]
    about = dict(suite="jobs", op=job, case=name, mode=mode, provider=provider)
    return {**about, **rest, "command": shlex.join(words)}


def attempt(
    about: Row, device: torch.device, measure: Callable[..., Row], *given: Any
) -> Generator[Message, None, bool]:
    """Measures a case: the row of ``measure(*given)``, or one that says why there are no figures. Returns False if it
    failed. PyTorch has as many threads after it as before."""
    yield {"begin": about}
    threads = torch.get_num_threads()
    try:
        found, done = measure(*given), True
    except Exception as failure:  # refused, not installed, out of memory: a row says so
        size = resource.getrlimit(resource.RLIMIT_DATA)[0]
        limit = "" if size == resource.RLIM_INFINITY else f" (this process may hold {size / GIB:.1f} GiB)"
        named = isinstance(failure, torch.OutOfMemoryError | MemoryError)
        memory = f"out of memory{limit}: " if named or any(words in str(failure) for words in NO_MEMORY) else ""
        found, done = {"note": memory + reason(failure)}, False
    torch.set_num_threads(threads)
    yield {"done": {**about, **found}}
    tidy(device)  # not before: the exception held the tensors of the frames that it came through
    return done


def figures(timing: Timing, items: int, unit: str, **rest: Any) -> Row:
    """The columns of a timing, and the rate of so many items a call."""
    return {**timing.figures, "rate": 1e3 * items / timing.median, "unit": unit, **rest}


def config_of(model: str, drop: int, tiny: bool) -> VATTConfig:
    """A preset whose DropToken drops ``drop`` % of the patches of video and sound. ``tiny``: with one layer."""
    config = preset(model)
    if config.backbone == "convolutional":  # drops nothing; its layers are few where it is tiny
        return config
    rate = dict(random_patch_sampling=drop > 0, patch_sampling_rate=1 - drop / 100)
    cut = dict(num_layers=1) if tiny else {}
    return update(config, {**dict.fromkeys(("video", "waveform", "unified"), cut | rate), "text": cut})


def columns_of(config: VATTConfig, batch: int, device: torch.device) -> Row:
    """Of a model: its inputs as the shape, dtype and dropout."""
    spec, backbone = config.input, config.unified if config.backbone == "unified" else config.video
    dropout = 0.0 if config.backbone == "convolutional" else backbone.dropout_rate
    shape = f"batch {batch}, {spec.frames} x {spec.size} x {spec.size} pixels, {spec.samples} samples, "
    shape += f"{spec.candidates} x {spec.words} words"
    return dict(shape=shape, dtype=str(type_of("auto", device)).removeprefix("torch."), dropout=dropout)


def model_case(
    options: Options, job: str, model: str, batch: int, config: VATTConfig, name: str, *, more: str = "", **rest: Any
) -> Row:
    """The columns of a case that runs a preset; ``more`` is added to the shape. ``rest`` goes before."""
    known = columns_of(config, batch, torch.device(options.device))
    known |= dict(provider=f"ours {options.backend}", select=dict(model=model, batch=batch))
    return case(options, job, f"{model} b{batch}{name}", **known | dict(shape=known["shape"] + more) | rest)


def random_batch(config: VATTConfig, batch: int, device: torch.device) -> dict[str, Tensor]:
    """video uint8 (B, T, S, S, 3), audio float32 (B, L) in [-1, 1), text int64 (B, C, W); random, never zeros: products
    of zeros draw less power and run faster."""
    spec, words = config.input, config.vocabulary
    options: dict[str, Any] = dict(generator=torch.Generator(device).manual_seed(0), device=device)
    pixels = (batch, spec.frames, spec.size, spec.size, 3)
    return {
        "video": torch.randint(0, 256, pixels, dtype=torch.uint8, **options),
        "audio": torch.rand((batch, spec.samples), **options) * 2 - 1,
        "text": torch.randint(1, words, (batch, spec.candidates, spec.words), **options),
    }


class Training:
    """Model, loss and AdamW (fused on a GPU). `step` is one update; DropToken keeps other patches at each.

    The optimizer's states have the type of the weights. Training on a GPU keeps weights and states in float32 besides
    (ZeRO): 16 bytes a parameter more than here, which ranks can share out.
    """

    def __init__(self, config: VATTConfig, device: torch.device, backend: str = "auto") -> None:
        torch.manual_seed(0)
        self.module = Pretraining(config, backend).to(device, type_of("auto", device)).train()
        trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        self._steps = 0

    def step(self, batch: Mapping[str, Any]) -> None:
        """Forward pass, backward pass and update; on a GPU it returns before they are done."""
        self.optimizer.zero_grad()
        self._steps += 1
        self.module(batch, self._steps)["loss"].backward()
        self.optimizer.step()


def pace(step: Callable[[], Any], device: torch.device, seconds: float, fewest: int) -> Timing:
    """Times steps that follow one another without a pause, as in training: by CUDA events between them, or the host's
    clock. So a step that the host issues slower than the GPU runs it shows that. Caches are as the steps leave them.

    ``step`` ran before. About ``seconds``, and at least ``fewest`` steps.
    """
    if device.type != "cuda":
        times = repeat(step, seconds, fewest, MOST)
        return summarise(times, times)
    once = _between(step, 1)[0][0]
    return summarise(*_between(step, max(fewest, min(MOST, int(1e3 * seconds / max(once, 0.01))))))


def _between(step: Callable[[], Any], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the end of a step to the end of the next, and of issuing each. One more step runs first, so
    that the GPU has work when the first time begins."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    hosts: list[float] = []
    step()
    events[0].record()
    for event in events[1:]:
        hosts += repeat(step, 0, 1)
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(events)], hosts


def peak_of(device: torch.device, size: str) -> tuple[float, str]:
    """Operations a second that MFU is a share of, and in words what they are: the data sheet's, or, where none is
    known, what a large product reaches now."""
    known = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known:
        return known, f"MFU of the data sheet's {known * 1e-12:.4g} TFLOP/s (bf16)"
    peaks, _ = measure_peaks(device, size, 0.5)
    return peaks.matmul, f"MFU of a large product measured before, {peaks.matmul * 1e-12:.4g} TFLOP/s"
