"""The golden tests run twice: with the backends that "auto" takes, and with Triton's kernels (without a GPU: in the
interpreter), where plain PyTorch may serve only what the kernels cannot do: float64 and attention weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vatt.kernels import runtime
from vatt.kernels.attention import external
from vatt.kernels.registry import _OPERATIONS, Call

MODULES = ("audio", "full", "losses", "text", "unified", "video")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module, name = metafunc.module.__name__.rpartition("test_golden_")[2], metafunc.function.__name__
    # Gradients of a whole model are those of its parts, and tests/models/test_triton_model.py compares them once more.
    if module in MODULES and (module, name) != ("full", "test_training"):
        # the interpreter takes a minute a file
        triton = pytest.param("triton", marks=pytest.mark.slow)
        metafunc.parametrize("kernels", ["auto", triton], indirect=True)


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(request, "param", "auto") == "auto":
        return
    pytest.importorskip("triton")
    monkeypatch.setattr(runtime, "_refuse_cpu", lambda call: [])
    first = dict.fromkeys(external.DISPATCH_ORDER, ("triton", "sdpa", "torch"))
    monkeypatch.setattr(external, "DISPATCH_ORDER", first)
    for known in _OPERATIONS.values():
        for name in ("sdpa", "torch"):
            if name in known:
                monkeypatch.setitem(known, name, replace(known[name], refuse=_refuse))


def _refuse(call: Call) -> list[str]:
    """Whatever the kernels can do, they must do, unless a test names plain PyTorch."""
    beyond_kernels = call.named or call.dtype == torch.float64 or call.facts.get("return_weights")
    return [] if beyond_kernels else ["is not under test here"]
