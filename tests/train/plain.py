"""What the engine should do, in a plain loop on one process: in float64, and several times in float32.

The steps of a run amplify each rounding, by how much depends on the CPU. So it is measured: the float32 runs begin from
weights that differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.numerics import assert_as_exact_as_eager, largest
from vatt.optim import SGD, Adam

STEPS = 4


@dataclass
class Plain:
    """Losses by step, and what is left after the last one: weights, and the states of the optimizer."""

    losses: dict[str, Tensor]
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


@dataclass
class Reference:
    """A run in float64, and those in float32."""

    exact: Plain
    eager: list[Plain]

    def check_losses(self, log: list[dict], first: int = 0) -> None:
        """The losses of an engine that began after step ``first`` are as exact as those of the plain loop."""
        found = {f"loss {step}": torch.tensor(entry["loss"]) for step, entry in enumerate(log, start=first)}
        eager = [{name: run.losses[name] for name in found} for run in self.eager]
        assert_as_exact_as_eager(found, eager, {name: self.exact.losses[name] for name in found})

    def check_weights(self, found: dict[str, Tensor]) -> None:
        self._check("weights", found)

    def check_state(self, found: dict[str, Tensor], ending: str = "") -> None:
        """Of the optimizer: all of it, or that whose names end so."""
        assert found["step"] == STEPS
        self._check("state", found, ending)

    def _check(self, part: str, found: dict[str, Tensor], ending: str = "") -> None:
        wanted = getattr(self.exact, part)
        names = {name for name in wanted if name.endswith(ending)}
        assert names
        exact, *eager = ({name: getattr(run, part)[name] for name in names} for run in (self.exact, *self.eager))
        # Some gradients are zero in exact arithmetic (key biases) and hold only noise.
        assert_as_exact_as_eager({name: found[name] for name in names}, eager, exact, scale=largest(exact))


def reference(
    make: Callable[[], nn.Module],
    batch_of: Callable[[int], dict[str, Tensor]],
    kind: str,
    rate: Callable[[int], float],
    clip: float | None = None,
) -> Reference:
    """Steps of Adam or SGD at ``rate(step)``; the gradient of the backbone is scaled to the norm ``clip``."""
    torch.set_num_threads(1)  # as in the engine's processes
    eager = [_trained(_nudged(make(), seed), batch_of, kind, rate, clip) for seed in range(5)]
    return Reference(_trained(make().double(), batch_of, kind, rate, clip), eager)


def _trained(
    module: nn.Module,
    batch_of: Callable[[int], dict[str, Tensor]],
    kind: str,
    rate: Callable[[int], float],
    clip: float | None,
) -> Plain:
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    optimizer = (SGD if kind == "sgd" else Adam)([p for _, p in trained], lr=rate(0))
    dtype, losses = trained[0][1].dtype, {}
    for step in range(STEPS):
        batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch_of(step).items()}
        loss = module.train()(batch, step)["loss"]
        module.zero_grad()
        loss.backward()
        losses[f"loss {step}"] = loss.detach()
        backbone = [p for name, p in trained if "backbone" in name]
        if clip is not None and backbone:
            norm = torch.cat([p.grad.flatten() for p in backbone]).norm()
            assert norm > 2 * clip  # or the tests would not see whether it is clipped
            for p in backbone:
                p.grad.mul_(clip / norm)
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
    weights = {name: p.detach() for name, p in module.named_parameters()}
    moments = {f"{name}.{key}": x for name, p in trained for key, x in optimizer.state[p].items() if key != "step"}
    return Plain(losses, weights, moments)


def _nudged(module: nn.Module, seed: int) -> nn.Module:
    """The weights as they are (seed 0), or each one up or down in the last bit, or not at all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in module.parameters() if seed else ():
            x.copy_(torch.nextafter(x, x * torch.randint(0, 3, x.shape, generator=generator)))
    return module
