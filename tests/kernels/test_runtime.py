"""What the operations ask of the machine: rarely, and right."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter

import pytest
import torch

from tests.kernels.test_triton_refusals import calls
from vatt.kernels import explain, mlp, operations, runtime


@pytest.fixture
def searches(monkeypatch):
    """Counts, by package, how often the disk is searched, from a process that knows nothing yet."""
    counted = Counter()
    find = importlib.util.find_spec

    def find_spec(name, package=None):
        counted[name] += 1
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(runtime, "_installed", {})
    monkeypatch.delitem(sys.modules, "triton", raising=False)  # other tests import it, and then nothing is searched
    return counted


def test_many_operations_search_the_disk_once(searches):
    for _ in range(3):
        for call in calls().values():
            call()
    assert searches == {"triton": 1}


def test_every_package_is_searched_once(searches):
    """`explain` asks all backends."""
    for _ in range(3):
        for op in operations():
            explain(op, "cpu")
    assert set(searches) == {"triton", "flash_attn", "flash_attn.cute", "xformers"}
    assert set(searches.values()) == {1}


def test_a_package_that_is_missing_is_not_searched_again(searches):
    assert not runtime.installed("no_such_package_here")
    assert not runtime.installed("no_such_package_here.inside")  # its parent is missing
    assert not runtime.installed("no_such_package_here.inside")
    assert set(searches.values()) == {1}


@pytest.mark.slow
def test_a_compiled_operation_is_compiled_once(monkeypatch):
    """What the first call finds out must not be a guard that fails at the second."""
    pytest.importorskip("triton")
    from torch._dynamo.testing import CompileCounter

    monkeypatch.setattr(runtime, "_installed", {})
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda *x: mlp(*x), fullgraph=True, backend=counter)
    x = [torch.randn(shape) for shape in ((4, 8), (16, 8), (16,), (8, 16), (8,))]
    compiled(*x)
    mlp(*x)
    compiled(*x)
    assert counter.frame_count == 1


@pytest.fixture
def capability(monkeypatch):
    """A machine whose GPU i has compute capability ``capability[i]``; its GPU 1 is the current one."""
    found, asked = {}, Counter()

    def get(index):
        asked[index] += 1
        return found[index]

    monkeypatch.setattr(runtime, "_capabilities", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", get)
    return found, asked


def test_the_arch_of_a_device(capability):
    found, asked = capability
    found |= {0: (8, 0), 1: (9, 0), 2: (10, 0), 3: (12, 0), 4: (8, 9)}
    for _ in range(3):
        archs = [runtime.device_arch(torch.device("cuda", index)) for index in range(5)]
        assert archs == ["sm80", "sm90", "sm100", "sm80", "sm80"]
        assert runtime.device_arch(torch.device("cuda")) == "sm90"
    assert set(asked.values()) == {1}
    assert runtime.device_arch(torch.device("cpu")) == "interpreter"


@pytest.mark.parametrize(("version", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_older_gpus_are_refused(capability, version, refused):
    found, _ = capability
    found[0] = version
    reasons = next(row.reasons for row in explain("mlp", "cuda:0") if row.backend == "triton")
    assert ("needs compute capability 8.0 (A100) or newer" in reasons) == refused


def test_launches_are_recorded_for_an_arch():
    x = torch.empty(3, device="meta")
    assert runtime.tensor_arch(x) == "interpreter"
    with runtime.recording(lambda *launch: recorded.append(launch), arch="sm90"):
        recorded = []
        assert runtime.tensor_arch(x) == "sm90"
        runtime.launch("kernel", (2, 3), x, BLOCK=16)
        runtime.launch("nothing to do", (2, 0), x)
    assert recorded == [("kernel", (2, 3), (x,), {"BLOCK": 16, "enable_fp_fusion": True})]
    assert runtime.tensor_arch(x) == "interpreter"
