"""The table of docs/feeding.md, section "Large batches": memory of both passes of a step by its batch, in parts of one
size and in one. Run as ``python docs/scripts/large_batches.py [MODEL [PART]]`` in the folder of the project; it takes
minutes. Made-up clips: their memory is not counted, nor are the weights and their gradients.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import partial

import torch

from vatt.analysis.memory import activation_bytes
from vatt.analysis.peak_memory import MIB, peak_mib
from vatt.objectives.parts import losses_in_parts
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

BATCHES = (64, 128, 256, 512, 1024, 2048)
MOST = 256  # clips of a step in one
CPU = torch.device("cpu")


def clips(module: Pretraining, count: int) -> dict[str, torch.Tensor]:
    """A batch whose values do not matter."""
    found = {name: torch.ones(x.shape, dtype=x.dtype) for name, x in module.empty_batch(count).items()}
    return found | {"audio": torch.rand_like(found["audio"]) - 0.5}


def step(module: Pretraining, part: dict[str, torch.Tensor], count: int) -> Callable[[], object]:
    """Both passes of ``count`` parts, which are all alike."""

    def once() -> dict[str, torch.Tensor]:
        return {**part, **module.draw(part, 0)}

    def run() -> object:
        call = partial(_call, module)
        return losses_in_parts([once] * count, count, call, lambda loss, last: loss.backward(), CPU)

    return run


def _call(module, batch, what, cached):  # type: ignore[no-untyped-def]
    return module(batch, 0, what, cached)


def main(name: str = "vatt-tiny", size: str = "32") -> None:
    config, part = preset(name), int(size)
    module = Pretraining(config).train()
    step(module, clips(module, 2), 1)()  # gradients are there, and what is made once
    print(f"{name}, float32, {platform.processor() or platform.machine()}, PyTorch {torch.__version__}\n")
    print(f"| clips | in parts of {part}: peak | predicted | in one: peak | predicted |\n|---|---|---|---|---|")
    given = clips(module, part)
    for batch in BATCHES:
        options = dict(backend="torch", device="cpu")
        row = [peak_mib(step(module, given, batch // part), CPU)]
        row.append(activation_bytes(config, torch.float32, batch, parts=batch // part, **options).total / MIB)
        whole = activation_bytes(config, torch.float32, batch, **options).total / MIB
        row += [peak_mib(step(module, clips(module, batch), 1), CPU) if batch <= MOST else float("nan"), whole]
        cells = [f"{value:,.0f} MiB" if value == value else "" for value in row]
        print(f"| {batch:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
