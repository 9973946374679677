"""Memory and time of the contrastive loss, both passes, as the batch grows: videos against 5 sentences each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench.cases.case import Problem
from bench.cases.nce import Nce
from bench.jobs.case import Row, attempt, case, figures
from bench.jobs.model import pace
from bench.jobs.options import Options, doubling
from bench.measure.memory import peak_mib
from bench.measure.process import Message
from vatt.kernels.registry import backends

CANDIDATES, WIDTH = 5, 256  # of the models


def loss_memory(options: Options) -> Iterator[Message]:
    """Measures every backend of ours, and the loss in the style of open_clip. Each ends at its first failure."""
    device = torch.device(options.device)
    for provider in (*backends("nce"), "open_clip"):
        for videos in options.batches or doubling(*options.amount.losses):
            shape = Nce(name=f"b{videos}", videos=videos, candidates=CANDIDATES, width=WIDTH, dtype=torch.float32)
            about = case(
                options,
                "loss_memory",
                f"b{videos} x{CANDIDATES} d{WIDTH}",
                mode="forward+backward",
                provider=provider,
                shape=shape.words,
                dtype="float32",
                dropout=0.0,
                select=dict(batch=videos),
            )
            if not (yield from attempt(about, device, partial(_measured, options, shape, provider))):
                break


def _measured(options: Options, shape: Nce, provider: str) -> Row:
    device = torch.device(options.device)
    problem = Problem(shape, device)
    # Named, so that a backend that cannot run here says why.
    call, leaves = shape.providers(kernels=True)[provider].make(problem, 0.0)
    wanted = list(leaves.values())
    grads = problem.gradients(call())

    def both() -> None:
        torch.autograd.grad(call(), wanted, grads)

    both()
    peak = peak_mib(both, device)
    timing = pace(both, device, options.budget / 2, options.amount.fewest)
    tflops = shape.cost(True, provider=provider).flops / timing.median * 1e-9
    note = "peak beyond the embeddings; their gradients are among it"
    return figures(timing, shape.videos, "clips/s", tflops=tflops, peak_mib=peak, note=note)
