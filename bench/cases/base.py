"""A case: an operation at one shape, described once for correctness, speed, comparison, sweep and compilation: how its
inputs are made, what is called and what that costs at least, what a user would pick instead, which launch parameters
are swept, and what its compiled kernels must have.

Costs: 2 operations a multiply-add, matrix products alone. Each pass (forward, backward) reads each of its inputs once
and writes each of its outputs once; what a pass could keep on the chip is not counted (the hidden layer of the MLP, the
scores). Scores that are too large to keep are computed again once in the backward pass, as flash attention counts it: 5
products there against 2 in the forward pass, and for the contrastive loss 3 against 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

OURS, AUTO, TORCH, COMPILE = "triton", "auto", "torch", "torch.compile"
DROPOUT = 0.1  # of the official configurations

Leaves = dict[str, Tensor]
Call = Callable[[], tuple[Tensor, ...]]
Make = Callable[["Problem", float], tuple[Call, Leaves]]


@dataclass(frozen=True)
class Cost:
    """Operations, and bytes of device memory."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Baseline:
    """``make`` (problem, dropout) gives a call and the leaves that it has gradients for. ``needs``: "kernels" or "cuda"
    where it is only measured beside our kernels, or on a GPU. ``same``: its outputs are those of the operation; False
    for another loss, or patches of its own choice. ``heavy``: making it takes long (a compiler)."""

    make: Make
    needs: str = ""
    same: bool = True
    heavy: bool = False


@dataclass(frozen=True)
class Target:
    """A target of bench/LOG.md for forward and backward pass of ``cases``.

    ``measure`` "ms" or "peak_mib": the least of the providers that match ``against`` but not ``but`` is at least
    ``least`` times that of ``ours``; "floor_share": ours is at least that.
    """

    text: str
    cases: tuple[str, ...]
    least: float
    against: tuple[str, ...] = ()
    but: tuple[str, ...] = (f"{OURS}*",)
    ours: str = OURS
    measure: str = "ms"


@dataclass(frozen=True)
class SearchSpace:
    """Launch parameters to sweep: an entry of a launch table of kernels/OP.

    ``table`` names the table and ``key`` the entry in it, where ARCH stands for the architecture; None: the attribute
    itself, and of a function what it returns. ``grid``: values of each field of the entry, or of a number.
    ``cases``: where, by name (tiny: the first of the operation). ``backend``: which one uses the entry.
    """

    op: str
    kernel: str
    table: str
    key: Any
    grid: tuple[Sequence[int], ...]
    cases: tuple[str, ...]
    backward: bool = True
    backend: str = OURS


ARCH = "ARCH"
# Tiles of a matrix product: rows, columns, depth, warps, stages. Programs of a persistent kernel.
PRODUCT_GRID = ((64, 128, 256), (64, 128, 256), (32, 64), (4, 8), (3, 4))
PROGRAMS_GRID = ((132, 264, 528, 1056),)

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")  # A100, H100, B200
MMA = dict.fromkeys(ARCHITECTURES, ("mma",))  # tiles too small for the instructions of a warp group
TENSOR_CORES = {"sm_80": ("mma",), "sm_90": ("wgmma",), "sm_100": ("tcgen05",)}  # the fastest of each chip


@dataclass(frozen=True)
class Expect:
    """What the compiled code of one kernel must have.

    ``matrix``: by architecture, the matrix instructions that it may use, and one of which it must use; None for a
    kernel without products. ``wide``: the share of its bytes that accesses of 16 bytes move, at least.
    """

    matrix: Mapping[str, tuple[str, ...]] | None = None
    wide: float = 0.7  # the scalars of a row are narrow in any code


@dataclass(frozen=True)
class Compilation:
    """``run`` launches kernels on tensors without memory, as the models would, in bfloat16; ``expect`` has an entry for
    each of them by its name."""

    op: str
    name: str
    run: Callable[[], None]
    expect: Mapping[str, Expect]


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


META_SEED = meta(1, dtype=torch.int64)  # of dropout


class Draw:
    """Random tensors on one device, never zeros; leaves are of one type, and parameters, as modules hold them."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)

    def raw(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device) * std + mean

    def leaf(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return nn.Parameter(self.raw(*shape, std=std, mean=mean).to(self.dtype))

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """``priority`` 1 for cases that have a target, 2 for others. ``size``: "gpu", a real shape; "cpu", with few clips,
    so that a call takes from 1 ms to 1 s on a few cores; "tiny", only to exercise the code. The last two: float32."""

    op: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ("out",)
    has_dropout: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = True
    backends: ClassVar[tuple[str, ...]] = (OURS,)  # those with kernels of this project
    name: str
    size: str = "gpu"
    priority: int = 2
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.size != "gpu":
            object.__setattr__(self, "dtype", torch.float32)

    @abstractmethod
    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        """By name; the differentiable ones are leaves."""

    @abstractmethod
    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float) -> Call:
        """The call of the operation; it returns what ``outputs`` names. Where it has dropout it also takes ``seed``."""

    @abstractmethod
    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """Of the forward and of the backward pass."""

    def cost(self, backward: bool, dropout: float = 0.0, provider: str = OURS) -> Cost:
        """Of the forward pass or, with ``backward``, of both passes."""
        forward, back = self.passes(dropout)
        return forward + back if backward else forward

    def baselines(self) -> dict[str, Baseline]:
        """What a user would pick instead, by name. Packages are imported when a call is made, which raises ImportError
        that names the package if it is missing, and ValueError if a baseline has no dropout and it is asked for."""
        return {TORCH: Baseline(ours(TORCH)), COMPILE: compiled(ours(TORCH))}

    def providers(self, kernels: bool, cuda: bool = True) -> dict[str, Baseline]:
        """Ours first, then all baselines, those that need a compiler last. Without ``kernels``, for a CPU: what "auto"
        takes there in place of our kernels."""
        absent = {need for need, here in (("kernels", kernels), ("cuda", cuda)) if not here}
        found = {name: Baseline(ours(name)) for name in (self.backends if kernels else (AUTO,))}
        found |= {name: made for name, made in self.baselines().items() if made.needs not in absent}
        return dict(sorted(found.items(), key=lambda item: item[1].heavy))

    def expected(self, outputs: tuple[Tensor, ...], want: Leaves) -> list[Tensor]:
        """What ``outputs`` of a baseline should be, given those of the plain backend."""
        return list(want.values())

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"

    @property
    def label(self) -> str:
        """The type without "torch."."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def words(self) -> str:
        """The shape in words: the fields that a subclass adds."""
        common = {f.name for f in fields(Case)}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in common}
        return ", ".join(f"{name} {value}" for name, value in rest.items() if value is not False and value is not None)


@dataclass
class Problem:
    """The inputs of a case on a device: ``leaves``, and those that are ``fixed``. ``notes``: what a reader of a row
    must know."""

    case: Case
    device: torch.device
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        inputs = self.case.inputs(Draw(self.device, self.case.dtype, self.seed))
        self.leaves: Leaves = {name: x for name, x in inputs.items() if x.requires_grad}
        self.fixed = {name: x for name, x in inputs.items() if not x.requires_grad}

    def copy(self, dtype: torch.dtype) -> Leaves:
        """The leaves in another type, with the same (rounded) numbers."""
        return {name: nn.Parameter(leaf.detach().to(dtype)) for name, leaf in self.leaves.items()}

    def call(self, backend: str, dropout: float = 0.0, leaves: Leaves | None = None, **options: Any) -> Call:
        """The operation on ``leaves``, by default on the problem's own."""
        return self.case.bind(self.fixed | (leaves or self.leaves), backend, dropout, **options)

    def refresh(self, leaves: Leaves) -> None:
        """New numbers into ``leaves`` and the signal, in place and of the same distribution: their rows change places.
        A call after it cannot live on what an earlier one left in a cache."""
        signal = self.fixed.get("x")
        with torch.no_grad():
            for x in (*leaves.values(), *(() if signal is None else (signal,))):
                x.copy_(x.flip(0))

    def gradients(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Random gradients of the outputs, always the same numbers."""
        draw = Draw(self.device, self.case.dtype, 1)
        return tuple(draw.raw(*x.shape).to(draw.dtype).to(x.dtype) for x in outputs)


def ours(backend: str) -> Make:
    """A backend of this project by name."""
    return lambda problem, dropout: (problem.call(backend, dropout), problem.leaves)


def compiled(make: Make, same: bool = True) -> Baseline:
    """Through torch.compile. Of a tiny case only the tracing is exercised: on a CPU, the C++ compiler would take a
    minute."""

    def made(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        call, leaves = make(problem, dropout)
        options: dict[str, Any] = dict(backend="eager" if problem.case.tiny else "inductor", dynamic=False)
        whole = torch.compile(call, fullgraph=True, **options)
        try:
            whole()
        except torch._dynamo.exc.Unsupported:
            # Cut into pieces at what cannot be traced; the row says so, for such a baseline may be a weak one.
            problem.notes.append("torch.compile breaks the graph")
            return torch.compile(call, **options), leaves
        return whole, leaves

    return Baseline(made, same=same, heavy=True)
