"""What the tests of the Triton kernels share: where they run, how results are computed, and what is demanded of all.

On a machine with a CUDA device the kernels are compiled, elsewhere Triton's interpreter runs them on the CPU. Import
from here as `tests.kernels.conftest`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor

from tests.numerics import assert_as_exact_as_eager, largest

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("0", "")
RUNNABLE = importlib.util.find_spec("triton") is not None and (INTERPRETED or DEVICE.type == "cuda")

needs_triton = pytest.mark.skipif(not RUNNABLE, reason="needs Triton, with a CUDA device or TRITON_INTERPRET=1")
# The interpreter is silently wrong in bfloat16.
HALF = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
few = settings(
    derandomize=True,
    max_examples=12,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # explaining a failure costs minutes
    suppress_health_check=list(HealthCheck),
)

SEED = 5
BORDER = 4096  # numbers before and behind every array in `check_memory`
SENTINEL = -77.0
UNWRITTEN = -0x35014542  # of integers, which have no NaN

Results = dict[str, Tensor | None]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads of PyTorch only wait for each other over arrays as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Case:
    """One call: ``run(backend, **leaves)`` gives a tensor or some; ``leaves`` are the inputs with a gradient.

    ``plain``: the call in plain PyTorch where the backend "torch" would not do: with the dropout mask of the kernels.
    ``floor`` and ``scale``: of `assert_as_exact_as_eager` in float32, where the results are not of the size of what
    they are computed from.
    """

    run: Callable[..., Any]
    leaves: dict[str, Tensor]
    plain: Callable[..., Any] | None = None
    floor: float | None = None
    scale: float = 0.0
    results: dict[Any, Results] = field(default_factory=dict)

    def known(self, backend: str, compute: torch.dtype = torch.float32) -> Results:
        """`evaluate` in float32 leaves, once for all checks of the case."""
        if (backend, compute) not in self.results:
            self.results[backend, compute] = evaluate(self, backend, compute=compute)
        return self.results[backend, compute]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def evaluate(
    case: Case,
    backend: str = "triton",
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    place: Callable[[Tensor], Tensor] = torch.clone,
) -> Results:
    """Outputs and gradients by name. Leaves, and gradients of outputs, are rounded to ``dtype``; the call then computes
    in ``compute``. ``place`` lays each of them out in memory."""
    compute = compute or dtype
    leaves = {name: place(x.to(dtype).to(compute)).requires_grad_() for name, x in case.leaves.items()}
    torch.manual_seed(SEED)
    run = case.plain if backend == "torch" and case.plain is not None else case.run
    outputs = run(backend, **leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = [place(randn(*out.shape, seed=90 + i).to(dtype).to(compute)) for i, out in enumerate(outputs)]
    found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    named = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
    return {**named, **{f"gradient of {name}": grad for name, grad in zip(leaves, found, strict=True)}}


def check_identical(actual: Results, expected: Results) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (value is None) == (actual[name] is None), name
        same = value is None or torch.equal(actual[name], value)
        assert same, name


def check_results(results: Results, case: Case) -> None:
    """As exact as plain PyTorch in float32. Some arrays are zero but for rounding, so the scale is that of all."""
    exact = case.known("torch", torch.float64)
    scale = max(case.scale, largest(exact))
    assert_as_exact_as_eager(results, case.known("torch"), exact, floor=case.floor, scale=scale)


def check_reference(case: Case, backend: str = "triton") -> None:
    """Outputs and gradients are as exact as those of plain PyTorch."""
    check_results(case.known(backend), case)


def check_half(case: Case, dtype: torch.dtype, backend: str = "triton") -> None:
    """As `check_reference` in a half type; the floor is the rounding of the largest number, which any result has."""
    exact = evaluate(case, "torch", dtype, compute=torch.float64)
    ours, eager = evaluate(case, backend, dtype), evaluate(case, "torch", dtype)
    assert {value.dtype for value in ours.values()} == {dtype}
    assert_as_exact_as_eager(ours, eager, exact, floor=torch.finfo(dtype).eps / 2)


def check_layout(case: Case, backend: str = "triton") -> None:
    """Inputs and gradients that do not lie in one piece give the same, but for the order of sums in PyTorch's part."""
    check_results(evaluate(case, backend, place=every_second), case)


def every_second(x: Tensor) -> Tensor:
    """``x``, in every second number of memory; NaN between."""
    spread = torch.full((*x.shape, 2), float("nan"), dtype=x.dtype, device=x.device)
    spread[..., 0] = x
    return spread[..., 0]


def check_repeats(case: Case, backend: str = "triton") -> None:
    """Two runs give the same bits."""
    check_identical(evaluate(case, backend), case.known(backend))


def check_compiled(case: Case, backend: str = "triton") -> None:
    """One graph without a break, as exact as the eager call."""
    torch.compiler.reset()
    compiled = Case(torch.compile(case.run, fullgraph=True, backend="aot_eager"), case.leaves)
    check_results(evaluate(compiled, backend), case)


def check_memory(case: Case, backend: str = "triton") -> None:
    """Every number of every array that the launchers allocate is written, nothing around is, and nothing around the
    inputs is read: they lie in NaN."""
    with allocations() as handed:
        guarded = evaluate(case, backend, place=lambda x: bordered(x, float("nan"))[1])
    assert any(inner.numel() for _, inner in handed), "nothing was allocated: the test sees nothing"
    for whole, inner in handed:
        unwritten = inner.isnan() if inner.is_floating_point() else inner == UNWRITTEN
        assert not unwritten.any(), f"never written: part of {tuple(inner.shape)}"
        outside = torch.cat([whole[:BORDER], whole[-BORDER:]])
        assert (outside == SENTINEL).all(), f"written outside of {tuple(inner.shape)}"
    check_identical(guarded, case.known(backend))


def bordered(x: Tensor, border: float) -> tuple[Tensor, Tensor]:
    """A buffer with ``x`` in its middle, and this part of it."""
    whole = torch.full((x.numel() + 2 * BORDER,), border, dtype=x.dtype, device=x.device)
    inner = whole[BORDER : BORDER + x.numel()].view(x.shape)
    inner.copy_(x)
    return whole, inner


@contextmanager
def allocations() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, memory that is asked for without a content is NaN (integers: `UNWRITTEN`), in the middle of a buffer of
    `SENTINEL`."""
    handed = []
    original, original_empty = torch.Tensor.new_empty, torch.empty

    def hand_out(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        content = float("nan") if dtype.is_floating_point else UNWRITTEN
        handed.append(bordered(torch.full(shape, content, dtype=dtype, device=device), SENTINEL))
        return handed[-1][1]

    def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return hand_out(x.shape, dtype or x.dtype, x.device)

    def new_empty(x: Tensor, *size: Any, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
        if others:  # of Triton's interpreter; the launchers give sizes and a type
            return original(x, *size, dtype=dtype, **others)
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return hand_out(shape, dtype or x.dtype, x.device)

    def empty(*size: Any, **options: Any) -> Tensor:
        made = original_empty(*size, **options)
        assert not made.numel(), "torch.empty: not watched by this test"
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty_like", empty_like)
        patch.setattr(torch.Tensor, "new_empty", new_empty)
        patch.setattr(torch, "empty", empty)
        yield handed


def check_seeds(case: Case, backend: str = "triton") -> None:
    """Dropout follows PyTorch's generator: one seed one output, another seed another output."""
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(case.run(backend, **case.leaves))
    first, again, other = ((out if isinstance(out, tuple) else (out,))[0] for out in outs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def seed_drawn() -> Tensor:
    """The seed that an operation draws first inside `evaluate`."""
    from vatt.kernels.dropout import draw_seed

    state = torch.get_rng_state(), torch.cuda.get_rng_state() if DEVICE.type == "cuda" else None
    torch.manual_seed(SEED)
    seed = draw_seed(DEVICE)
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
    return seed


def elementwise_keep(rows: int, columns: int, p: float) -> Tensor:
    """The factors (rows, columns) of dropout of an operation inside `evaluate`: 0 or the scale of what is kept."""
    from vatt.kernels.dropout import keep_mask, keep_scale

    places = torch.arange(rows, device=DEVICE)[:, None], torch.arange(columns, device=DEVICE)[None, :]
    return keep_mask(seed_drawn(), *places, p).double() * keep_scale(p)
