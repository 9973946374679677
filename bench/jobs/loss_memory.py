"""Memory and time of the contrastive loss, both passes, as the batch grows: videos against 5 sentences each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench import peers
from bench.costs import cost_of
from bench.jobs.case import Row, attempt, case, figures
from bench.jobs.model import pace
from bench.jobs.options import Options, doubling
from bench.measure.memory import peak_mib
from bench.measure.process import Message
from bench.problems import make
from bench.shapes import NceShape, words
from vatt.kernels.registry import backends

CANDIDATES, WIDTH = 5, 256  # of the models


def loss_memory(options: Options) -> Iterator[Message]:
    """Measures every backend of ours, and the loss in the style of open_clip. Each ends at its first failure."""
    device = torch.device(options.device)
    for provider in (*backends("nce"), "open_clip"):
        for videos in options.batches or doubling(*options.amount.losses):
            shape = NceShape(name=f"b{videos}", videos=videos, candidates=CANDIDATES, width=WIDTH, dtype=torch.float32)
            about = case(
                options,
                "loss_memory",
                f"b{videos} x{CANDIDATES} d{WIDTH}",
                mode="forward+backward",
                provider=provider,
                shape=words(shape),
                dtype="float32",
                dropout=0.0,
                select=dict(batch=videos),
            )
            if not (yield from attempt(about, device, partial(_measured, options, shape, provider))):
                break


def _measured(options: Options, shape: NceShape, provider: str) -> Row:
    device = torch.device(options.device)
    problem = make(shape, device)
    # Named, so that a backend that cannot run here says why.
    call, leaves = peers.providers(shape)[provider](problem, 0.0)
    wanted = list(leaves.values())
    grads = problem.gradients(call())

    def both() -> None:
        torch.autograd.grad(call(), wanted, grads)

    both()
    peak = peak_mib(both, device)
    timing = pace(both, device, options.budget / 2, options.amount.fewest)
    tflops = cost_of(provider, shape, True).flops / timing.median * 1e-9
    note = "peak beyond the embeddings; their gradients are among it"
    return figures(timing, shape.videos, "clips/s", tflops=tflops, peak_mib=peak, note=note)
