"""A contrastive step in the memory of a part of its batch, with the loss and the gradient of the whole (gradient cache,
Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").

The cut is in front of the heads. The features of all parts but the last are made without a graph; the last part keeps
its graph, and the features of the whole batch go through head, batch norm and loss. Its backward pass gives the
gradient of the weights so far, and that of all features. Then each of the other parts passes the backbones once more,
now with a graph, and its backward pass begins with the gradient of its features. So N parts take 2 N - 1 forward and N
backward passes; and the first backward pass of a step reaches every weight, which ZeRO 2 and 3 and offloading need to
begin a sum of gradients anew.

It is exact as long as a clip's features depend on that clip alone, and a repeated pass gives the same numbers: the
state of the random generators is put back for it, and operations take the same backends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vatt.kernels.registry import as_with_gradient

Part = Literal["whole", "features", "last"]  # what one call of a module computes, see `Pretraining.forward`
MASKS = ("audio_mask", "text_mask")  # of a batch
Tensors = Mapping[str, Tensor]


def losses_in_parts(
    parts: Iterable[Callable[[], Mapping[str, Any]]],
    count: int,
    call: Callable[[Mapping[str, Any], Part, Tensors | None], dict[str, Tensor]],
    backward: Callable[[Tensor, bool], object],
    device: torch.device,
) -> dict[str, Tensor]:
    """The losses of a batch, after the backward passes of all of its parts.

    Args:
        parts: of the batch, in order, each as what gives it on the device; it is asked for at most twice, and let go as
            soon as it is not needed any more. All of them are taken before the loss and any gradient, so an error that
            is raised there leaves no trace: also the random generators are as before.
        count: of them, 1 or more.
        call: the module, as `Pretraining.forward`: with a part, what is computed, and the features of those before.
        backward: accumulates gradients of a scalar; told whether it is the last one of the step.
        device: whose random generator the module uses, beside that of the CPU.

    Raises:
        ValueError: there are not ``count`` parts.
    """
    cached: list[dict[str, Tensor]] = []
    waiting: deque[tuple[Callable[[], Mapping[str, Any]], Any]] = deque()
    last, taken, before = None, 0, _random_state(device)
    try:
        for part in parts:
            taken += 1
            if taken < count:
                waiting.append((part, _random_state(device)))
                with torch.no_grad(), as_with_gradient():
                    found = call(part(), "features", None)
                cached.append({name: x.clone() for name, x in found.items()})  # or it would keep all tokens
                del found
            last = part
            del part
        if taken != count:
            raise ValueError(f"a step of {count} parts: got {taken}")
    except BaseException:
        _set_random_state(device, before)
        raise
    assert last is not None
    features = _joined(cached)
    losses = call(last(), "last", dict(features))  # ZeRO 3 puts other tensors into what a module is given
    del last, cached
    after = _random_state(device)
    backward(losses["loss"], count == 1)
    losses = {name: value.detach() for name, value in losses.items()}
    gradients = {name: x.grad.chunk(count - 1) for name, x in features.items() if x.grad is not None}
    del features
    for number in range(count - 1):
        part, state = waiting.popleft()
        _set_random_state(device, state)
        found = call(part(), "features", None)
        ends = [(found[name] * of_parts[number]).sum() for name, of_parts in gradients.items()]
        backward(torch.stack(ends).sum(), number == count - 2)
        del part, found, ends
    _set_random_state(device, after)
    return losses


def _joined(cached: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The features of several parts in one leaf each, and the masks."""
    joined = {name: torch.cat([found[name] for found in cached]) for name in (cached[0] if cached else ())}
    return {name: x if name in MASKS else x.requires_grad_() for name, x in joined.items()}


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the generators that dropout draws from; the host does not wait for a GPU."""
    of_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *of_device)


def _set_random_state(device: torch.device, state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def refusals(module: nn.Module) -> list[str]:
    """Why the features of a clip depend on other clips of its part: batch norms of the backbones, by name."""
    head = ("vatt.head.", "loss.")
    found = [
        name
        for name, part in module.named_modules()
        if "BatchNorm" in type(part).__name__ and not name.startswith(head)
    ]
    if not found:
        return []
    others = f" (and {len(found) - 1} others)" if found[1:] else ""
    return [f"{found[0]}{others} is a batch norm in front of the heads, which would see one part at a time"]
