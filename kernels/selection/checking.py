"""Whether a backend computes what the plain reference does: values, gradients, dropout.

The reference runs on the same rounded inputs, one type wider. A tensor may be at most twice as far from it as plain
PyTorch in the type of the problem (and a little: plain PyTorch may round where it happens not to matter), and holds
nothing that is not finite. With dropout our backends and the reference draw the same mask from the same seed. Others
take no seed: without dropout they are compared like ours, and with it by what a right mask has (`check_statistics`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..dropout import draw_seed
from ..registry import Problem, has_twin
from .problems import Inputs, Tensors, inputs, small

REFERENCE = "torch"
WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
# Of bytes: a few in a thousand may be rounded the other way, to a level beside the right one.
SLACK = {torch.uint8: 1e-3, torch.bfloat16: 1e-3, torch.float16: 1e-4, torch.float32: 1e-6, torch.float64: 1e-12}
SIGMAS = 6.0  # of a statistic that must not fail by chance


class WrongResult(ArithmeticError):
    """A backend that computes something else. The message names the tensor and its error."""


def check(problem: Problem, backend: str, device: torch.device) -> None:
    """Compares a backend with the reference at a small size, with the dropout of the problem. One that draws masks of
    its own is compared without dropout, and then judged by its statistics.

    Raises:
        WrongResult: they differ. Whatever the backend raises.
    """
    if backend == REFERENCE:
        return
    little = small(problem)
    made = inputs(little, device)
    p = float(dict(problem.facts).get("dropout", 0.0))
    twin = has_twin(problem.op, backend)
    compare(made, backend, p if twin else 0.0, device)
    if p > 0 and not twin:
        check_statistics(little, backend, p, device)


def compare(made: Inputs, backend: str, p: float, device: torch.device) -> None:
    """All outputs and gradients against the reference, with its mask; as exact as plain PyTorch in the type of the
    products, where that is told and less exact than that of the inputs. Raises WrongResult."""
    seed = draw_seed(device) if p > 0 else None
    kind = next(x.dtype for x in (made.leaves | made.fixed).values() if x.is_floating_point())
    exact = made.run(REFERENCE, p, seed, WIDER.get(kind, kind))
    plain, found = made.run(REFERENCE, p, seed), made.run(backend, p, seed)
    eager, products = plain, made.precision
    if products is not None and torch.finfo(products).eps > torch.finfo(kind).eps:
        eager, kind = made.run(REFERENCE, p, seed, products), products
    at = f" with dropout {p:g}" if p > 0 else ""
    if found.keys() != plain.keys():
        raise WrongResult(f"gives {', '.join(found)}{at}, not {', '.join(plain)}")
    for name, value in found.items():
        if value.shape != plain[name].shape or value.dtype != plain[name].dtype:
            wanted = f"{tuple(plain[name].shape)} {plain[name].dtype}"
            raise WrongResult(f"{name}{at} is {tuple(value.shape)} {value.dtype}, not {wanted}")
        allowed = 2 * error(eager[name], exact[name]) + SLACK[kind if value.is_floating_point() else value.dtype]
        if not (off := error(value, exact[name])) <= allowed:  # NaN is in no order
            raise WrongResult(f"{name}{at}: error {off:.2g}, at most {allowed:.2g} is right")


def error(out: Tensor, want: Tensor) -> float:
    """||out - want|| / ||want||, in float64 (a float32 sum over 10^8 numbers would add an error of its own)."""
    difference, size = 0.0, 0.0
    for a, b in zip(out.flatten().split(1 << 26), want.flatten().split(1 << 26), strict=True):
        difference += float((a.double() - b.double()).square().sum())
        size += float(b.double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5


def check_statistics(problem: Problem, backend: str, p: float, device: torch.device) -> None:
    """What dropout of attention weights must have, whoever draws the mask. With equal weights and values of 1 an output
    is the share of the keys that were kept over 1 - p: mean and variance over all rows are known. Two calls differ. And
    the backward pass has the mask of the forward pass: outputs are linear in the values, so
    <outputs, outputs> = <gradient of the values, values> for the gradient ``outputs``.

    Raises:
        WrongResult: with the statistic that is off.
    """
    made = inputs(problem, device)
    packed = "qkv" in made.leaves | made.fixed
    x = made.leaves | made.fixed
    plain = {name: torch.zeros_like(value) if name == "bias" else value for name, value in x.items()}
    if packed:
        plain["qkv"] = torch.cat([torch.zeros_like(x["qkv"][:, :2]), torch.ones_like(x["qkv"][:, 2:])], dim=1)
    else:
        plain |= {"q": torch.zeros_like(x["q"]), "k": torch.zeros_like(x["k"]), "v": torch.ones_like(x["v"])}
    shares = _output(made, plain, backend, p).float()[..., 0].flatten()
    exact = _output(made, plain, REFERENCE, 0.0)
    visible = _visible(problem, plain)
    variance = float((p / (1 - p) / visible).mean())
    if not shares.isfinite().all() or not exact.isfinite().all():
        raise WrongResult(f"output with dropout {p:g} holds values that are not finite")
    mean, spread = float(shares.mean()), float((shares - 1).square().mean())
    if abs(mean - 1) > SIGMAS * math.sqrt(variance / shares.numel()) + 0.01:
        raise WrongResult(f"dropout {p:g}: mean of the kept weights {mean:.4f}, not 1")
    if variance > 1e-6 and abs(spread / variance - 1) > SIGMAS * math.sqrt(2 / shares.numel()) + 0.2:
        raise WrongResult(f"dropout {p:g}: variance of the kept weights {spread:.2g}, not {variance:.2g}")
    if variance > 1e-6 and torch.equal(shares, _output(made, plain, backend, p).float()[..., 0].flatten()):
        raise WrongResult(f"dropout {p:g}: two calls drop the same weights")
    _check_one_mask(made, x, backend, p, packed)


def _output(made: Inputs, x: Tensors, backend: str, p: float) -> Tensor:
    found = made.call(x, backend, p, None)
    return found[0] if isinstance(found, tuple) else found


def _visible(problem: Problem, x: Tensors) -> Tensor:
    """Keys that each sequence may see, as many times as it has rows."""
    found, first = [], 0
    mask = x["mask"].flatten() if "mask" in x else None
    for share, length, flag in dict(problem.facts)["sequences"]:
        count = share * problem.count
        seen = torch.full((count,), float(length))
        if mask is not None and flag:
            seen = mask[first : first + count * length].view(count, length).sum(1).float().cpu()
        found.append(seen.repeat_interleave(length))
        first += count * length
    return torch.cat(found)


def _check_one_mask(made: Inputs, x: Tensors, backend: str, p: float, packed: bool) -> None:
    name = "qkv" if packed else "v"
    if name not in made.leaves:  # without a backward pass
        return
    leaves = {key: value.detach().requires_grad_() for key, value in made.leaves.items()}
    out = _output(made, x | leaves, backend, p)
    (grad,) = torch.autograd.grad(out, leaves[name], out.detach())
    value = leaves[name].detach()
    if packed:
        grad, value = grad[:, 2], value[:, 2]
    size, back = float(out.detach().double().square().sum()), float((grad.double() * value.double()).sum())
    if not math.isfinite(back) or abs(back / size - 1) > 0.3 * p:
        raise WrongResult(f"dropout {p:g}: the backward pass drops other weights than the forward pass")
