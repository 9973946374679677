"""The registry: which backend runs, and the reasons of the others."""

from __future__ import annotations

import pytest
import torch

from vatt.kernels import BackendError, attention, backends, dispatch, explain, layer_norm, operations
from vatt.kernels.registry import (
    _OPERATIONS,
    Call,
    Problem,
    decide,
    exclude,
    forget_decisions,
    listening,
    load_decisions_with,
    register,
    select,
)
from vatt.kernels.selection.cache import install_cached

CPU = torch.device("cpu")


@pytest.fixture
def qkv():
    return [torch.randn(2, 5, 3, 4) for _ in range(3)]


def test_auto_prefers_the_fused_attention_unless_the_weights_are_asked_for(qkv):
    rows = {row.backend: row for row in explain("attention", "cpu")}
    assert rows["sdpa"].chosen
    assert not rows["torch"].chosen
    rows = {row.backend: row for row in explain("attention", "cpu", return_weights=True)}
    assert rows["torch"].chosen
    assert rows["sdpa"].reasons == ("cannot return the attention weights",)
    _, weights = attention(*qkv, scale=0.5, return_weights=True)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 5))


def test_a_named_backend_refuses_with_its_reason(qkv):
    with pytest.raises(BackendError, match=r"attention: backend 'sdpa' refuses .*cannot return the attention weights"):
        attention(*qkv, scale=0.5, return_weights=True, backend="sdpa")


def test_an_unknown_backend_lists_the_known_ones(qkv):
    with pytest.raises(BackendError, match=r"unknown backend 'cuda'; there are: auto, triton, cpu, sdpa, .*, torch"):
        attention(*qkv, scale=0.5, backend="cuda")


@pytest.mark.parametrize("op", operations())
def test_every_operation_refuses_integers_and_says_so(op):
    for name in backends(op):
        with pytest.raises(
            BackendError, match=rf"{op}: backend '{name}' refuses .*floating-point type, got torch.int64"
        ):
            dispatch(op, name, Call(CPU, torch.int64))
    with pytest.raises(BackendError, match="no backend can run"):
        dispatch(op, "auto", Call(CPU, torch.int64))
    assert not any(row.chosen for row in explain(op, "cpu", torch.int64))


@pytest.mark.parametrize("op", operations())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_exactly_one_backend_is_chosen(op, dtype, device):
    assert [row.chosen for row in explain(op, device, dtype)].count(True) == 1


def test_the_first_registered_backend_without_a_reason_runs():
    register("test_op", "never", lambda: "never", lambda call: ["because"])
    register("test_op", "always", lambda: "always", lambda call: [])
    try:
        assert dispatch("test_op", "auto", Call(CPU, torch.float32))() == "always"
        assert [(row.backend, row.chosen, row.reasons) for row in explain("test_op", CPU)] == [
            ("never", False, ("because",)),
            ("always", True, ()),
        ]
    finally:
        del _OPERATIONS["test_op"]


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"layer_norm: weight: expected \(4,\), got \(3,\)"):
        layer_norm(torch.zeros(2, 4), torch.ones(3), torch.zeros(4))


@pytest.fixture
def calls():
    """Every operation that runs, and its call; no decision stays."""
    found = []
    with listening(lambda op, call: found.append((op, call))):
        yield found
    forget_decisions()


def test_a_decision_comes_before_the_order_and_is_for_its_own_facts_alone(qkv, calls):
    attention(*qkv, scale=0.5)
    op, call = calls[-1]
    assert select(op, "auto", call) == "sdpa"
    decide(CPU, Problem.of(op, call), "torch")
    assert select(op, "auto", call) == "torch"
    assert select(op, "sdpa", call) == "sdpa"
    for other in (
        dict(mask=torch.ones(2, 5)),
        dict(bias=torch.zeros(3, 5, 5)),
        dict(dropout_p=0.1),
    ):
        attention(*qkv, scale=0.5, **other)
        assert calls[-1][1].facts != call.facts, other
    attention(*(x[:, :4] for x in qkv), scale=0.5)
    assert select(*calls[-1][:1], "auto", calls[-1][1]) == "sdpa"
    attention(*(x.double() for x in qkv), scale=0.5)
    assert select(*calls[-1][:1], "auto", calls[-1][1]) == "sdpa"
    attention(*(x.clone().requires_grad_() for x in qkv), scale=0.5)
    assert select(*calls[-1][:1], "auto", calls[-1][1]) == "sdpa"
    attention(*(x[:1] for x in qkv), scale=0.5)  # fewer items are the same problem
    assert select(*calls[-1][:1], "auto", calls[-1][1]) == "torch"


@pytest.mark.slow
def test_torch_compile_follows_a_decision_with_sizes_that_are_symbols(qkv, calls):
    attention(*qkv, scale=0.5)
    decide(CPU, Problem.of(*calls[0]), "torch")
    for dynamic in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda q, k, v: attention(q, k, v, scale=0.5), fullgraph=True, backend="aot_eager", dynamic=dynamic
        )
        for times in (1, 2):
            parts = [x.repeat(times, times, 1, 1) for x in qkv]
            torch.testing.assert_close(compiled(*parts), attention(*parts, scale=0.5))


def test_the_nearest_count_decides(calls):
    for count, backend in ((4, "torch"), (400, "sdpa")):
        decide(CPU, Problem("attention", torch.float32, (("heads", 1),), count), backend)
    for count, backend in ((1, "torch"), (30, "torch"), (50, "sdpa"), (9999, "sdpa")):
        assert select("attention", "auto", Call(CPU, torch.float32, {"heads": 1}, count)) == backend


def test_a_decision_for_a_backend_that_refuses_the_call_is_passed_over(calls):
    facts = {"return_weights": True}
    decide(CPU, Problem.of("attention", Call(CPU, torch.float32, facts)), "sdpa")
    assert select("attention", "auto", Call(CPU, torch.float32, facts)) == "torch"
    with pytest.raises(BackendError, match="attention: unknown backend 'cuda'"):
        decide(CPU, Problem("attention", torch.float32), "cuda")


CUDA = torch.device("cuda", 0)
HEADS = {"heads": 12, "head_dim": 64}


@pytest.mark.parametrize("op", ["attention", "packed_attention"])
@pytest.mark.parametrize(
    ("dtype", "facts", "chosen"),
    [
        (torch.bfloat16, {}, "sdpa_flash"),
        (torch.float16, {"dropout": 0.1}, "sdpa_flash"),
        (torch.float32, {"dropout": 0.1}, "sdpa"),
        (torch.bfloat16, {"head_dim": 512}, "sdpa"),
        (torch.bfloat16, {"mask": True}, "sdpa"),
        (torch.bfloat16, {"bias": True, "mask": True}, "sdpa"),
        (torch.bfloat16, {"return_weights": True}, "torch"),
    ],
)
def test_on_a_gpu_pytorchs_own_attention_comes_first(op, dtype, facts, chosen):
    assert [row.backend for row in explain(op, CUDA, dtype, **(HEADS | facts)) if row.chosen] == [chosen]


def test_the_decisions_of_earlier_runs_are_loaded_at_the_first_call_on_a_gpu(calls, monkeypatch):
    for name in ("first", "second"):
        register("test_op", name, lambda: None, lambda call: [])
    asked = Call(CUDA, torch.float32, {"length": 3})
    loads = []

    def loader(device):
        loads.append(device)
        decide(device, Problem.of("test_op", asked), "second")

    try:
        load_decisions_with(loader)
        assert select("test_op", "auto", asked) == "first"  # no GPU here
        load_decisions_with(loader)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert select("test_op", "first", asked) == "first"
        assert loads == []  # nothing for a backend by name
        for _ in range(2):
            assert select("test_op", "auto", asked) == "second"
        assert select("test_op", "auto", Call(CUDA, torch.float32, {"length": 4})) == "first"
        assert select("test_op", "auto", Call(CPU, torch.float32, {"length": 3})) == "first"
        assert loads == [CUDA]
        exclude(CUDA, "test_op", "first")
        assert select("test_op", "auto", Call(CUDA, torch.float32, {"length": 4})) == "second"
        exclude(CUDA, "test_op", "second")  # nothing else is left
        assert select("test_op", "auto", Call(CUDA, torch.float32, {"length": 4})) == "first"
    finally:
        del _OPERATIONS["test_op"]
        load_decisions_with(install_cached)
