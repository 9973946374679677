"""The registry: which backend runs, and the reasons of the others."""

from __future__ import annotations

import pytest
import torch

from vatt.kernels import BackendError, attention, backends, dispatch, explain, layer_norm, operations
from vatt.kernels.registry import _OPERATIONS, Call, register

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
    with pytest.raises(BackendError, match=r"unknown backend 'cuda'; there are: auto, triton, sdpa, .*, torch"):
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
